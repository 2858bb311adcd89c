"""Reading and writing: model directories, run directories, ComCAT folders, exports."""
