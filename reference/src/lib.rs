//! The truth about every packscan operator, in plain loops over f64.
