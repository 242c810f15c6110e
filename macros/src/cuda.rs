//! What the names of a declaration become in the CUDA text, and which of them it cannot hold.
//!
//! A parameter or derived number `state` is the constant `STATE`, a type `io` is the type `io_t`, a tensor or dim keeps
//! its name as a field of `struct Args`, and a strided tensor `u` adds the field `u_stride`.

/// Words that C++ keeps, of those that Rust leaves free.
const KEYWORDS: [&str; 62] = [
    "alignas",
    "alignof",
    "and",
    "and_eq",
    "asm",
    "auto",
    "bitand",
    "bitor",
    "bool",
    "case",
    "catch",
    "char",
    "class",
    "compl",
    "concept",
    "constexpr",
    "consteval",
    "constinit",
    "decltype",
    "default",
    "delete",
    "double",
    "explicit",
    "export",
    "float",
    "friend",
    "goto",
    "inline",
    "int",
    "long",
    "mutable",
    "namespace",
    "new",
    "noexcept",
    "not",
    "not_eq",
    "nullptr",
    "operator",
    "or",
    "or_eq",
    "private",
    "protected",
    "public",
    "register",
    "requires",
    "short",
    "signed",
    "sizeof",
    "switch",
    "template",
    "this",
    "thread_local",
    "throw",
    "typedef",
    "typeid",
    "typename",
    "union",
    "unsigned",
    "using",
    "void",
    "volatile",
    "xor",
];

/// Constants that the compiler or the prelude defines.
const CONSTANTS: [&str; 9] = ["NULL", "EOF", "LOG2E", "INFINITY", "NAN", "CHAR_BIT", "INT_MIN", "INT_MAX", "UINT_MAX"];

/// Types whose names a `<parameter>_t` would take.
const TYPES: [&str; 8] = ["size_t", "ssize_t", "ptrdiff_t", "wchar_t", "nullptr_t", "intptr_t", "uintptr_t", "clock_t"];

/// The fields that every `Args` has besides tensors and dims.
pub const ARGS_FIELDS: [&str; 2] = ["tokens", "sequences"];

/// The constant of a number: `STATE`.
pub fn constant(name: &str) -> String {
    name.to_uppercase()
}

/// The type of a `dtype` parameter: `io_t`.
pub fn type_name(name: &str) -> String {
    format!("{name}_t")
}

/// The field that holds the stride of a tensor: `u_stride`.
pub fn stride(name: &str) -> String {
    format!("{name}_stride")
}

/// Why CUDA cannot have a name that stands in the text as it is: a field of `Args`, a kernel.
pub fn identifier_fault(name: &str) -> Option<String> {
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !starts || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Some(format!("`{name}` is no C identifier: write ASCII letters, digits and `_`, a letter first"));
    }
    if KEYWORDS.contains(&name) {
        return Some(format!("`{name}` is a keyword of C++: choose another name"));
    }
    if name.contains("__") || (name.starts_with('_') && name[1..].starts_with(|c: char| c.is_ascii_uppercase())) {
        return Some(format!("`{name}` is reserved in C++ by its underscores: choose another name"));
    }
    None
}

/// Why CUDA cannot have the constant of this number.
pub fn constant_fault(name: &str) -> Option<String> {
    let constant = constant(name);
    identifier_fault(&constant).or_else(|| {
        CONSTANTS.contains(&constant.as_str()).then(|| {
            format!("`{name}` becomes the CUDA constant `{constant}`, which exists already: choose another name")
        })
    })
}

/// Why CUDA cannot have the type of this parameter.
pub fn type_fault(name: &str) -> Option<String> {
    let type_name = type_name(name);
    let sized = |prefix: &str| {
        type_name
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix("_t"))
            .is_some_and(|bits| !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()))
    };
    identifier_fault(&type_name).or_else(|| {
        (TYPES.contains(&type_name.as_str()) || ["int", "uint", "char"].into_iter().any(sized))
            .then(|| format!("`{name}` becomes the CUDA type `{type_name}`, which exists already: choose another name"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_free() {
        assert_eq!(identifier_fault("selective_scan_fwd"), None);
        assert_eq!(constant_fault("state"), None);
        assert_eq!(type_fault("io"), None);
        assert_eq!(constant_fault("double"), None, "the constant is DOUBLE");
    }

    #[test]
    fn names_that_cuda_keeps_are_found() {
        for name in ["double", "scan-fwd", "2d", "", "größe", "a__b", "_A"] {
            assert!(identifier_fault(name).is_some(), "{name}");
        }
        assert!(constant_fault("log2e").is_some());
        for name in ["size", "uint32", "int8", "char16"] {
            assert!(type_fault(name).is_some(), "{name}");
        }
    }
}
