"""What is written and read: model directories, ComCAT folders, exports."""
