//! What is installed
