//! Packs whose lengths come from real documents: packscan's own text files, each a sequence, a word a token.

/// The documents, by their path in the repository.
pub const DOCUMENTS: [(&str, &str); 7] = [
    ("README.md", include_str!("../../README.md")),
    ("ARCHITECTURE.md", include_str!("../../ARCHITECTURE.md")),
    ("CONTRIBUTING.md", include_str!("../../CONTRIBUTING.md")),
    ("CHANGELOG.md", include_str!("../../CHANGELOG.md")),
    ("runtime/src/prelude.cuh", include_str!("../../runtime/src/prelude.cuh")),
    ("kernels/src/selective_scan/README.md", include_str!("../../kernels/src/selective_scan/README.md")),
    ("kernels/src/selective_scan/forward.cuh", include_str!("../../kernels/src/selective_scan/forward.cuh")),
];

/// The length of each document, in words.
pub fn lengths() -> Vec<usize> {
    DOCUMENTS.iter().map(|(_, text)| text.split_whitespace().count()).collect()
}
