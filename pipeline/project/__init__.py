"""The project as a folder: workspaces, params.yaml as a whole, and how DVC is called."""
