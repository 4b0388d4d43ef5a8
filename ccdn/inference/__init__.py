"""From pictures, films and cameras to landmarks, and the files that they are written to."""
