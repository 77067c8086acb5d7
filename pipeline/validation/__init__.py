"""The validation gate: checks of images before training, and the pages and plots that show the results."""
