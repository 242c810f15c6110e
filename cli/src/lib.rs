//! Train Mamba models on packed, variable-length text: generate, verify and run the kernels.
