"""A family that names a new task; tests/test_new_task.py puts it into a copy of the project."""
