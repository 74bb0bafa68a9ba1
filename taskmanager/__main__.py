from taskmanager.cli import main

main(prog_name="taskmanager")
