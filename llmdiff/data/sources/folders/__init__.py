"""Folders of pictures as sources of rows, each with a caption beside it."""
