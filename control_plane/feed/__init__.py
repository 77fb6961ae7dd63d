"""The feed: how followers hear of changes, and of what is wanted back."""
