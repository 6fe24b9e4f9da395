"""Reading and writing images, transforms, tables and files."""
