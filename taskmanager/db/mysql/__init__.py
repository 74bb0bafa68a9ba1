"""What only MySQL and MariaDB need: their connections, TLS and the pool of idle connections."""
