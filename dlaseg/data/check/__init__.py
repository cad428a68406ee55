"""What is wrong with a data set, before anything is trained on it: every file is read, nothing is changed."""
