//! A kernel declaration in, specialised CUDA text and a typed launcher out.
