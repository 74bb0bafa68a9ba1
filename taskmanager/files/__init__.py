"""What the host's file system offers: locks between processes, and which kind it is."""
