"""The one HTTP client of the project."""
