"""How the terms that leave one state are computed together."""
