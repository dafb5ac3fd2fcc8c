"""What each page of docs/papers says, made of the JSON of its runs: see ``quoted``."""
