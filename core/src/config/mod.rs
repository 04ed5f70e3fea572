//! From the file's text to a compiled snapshot, or all of its errors at once.
