//! NVRTC
