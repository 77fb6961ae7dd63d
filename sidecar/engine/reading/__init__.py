"""Reading a catalog document: each module reads one kind of thing, and all problems are collected on the way."""
