//! What must not compile, and what the author is told.

#[test]
fn mistakes_are_reported_where_they_stand() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
