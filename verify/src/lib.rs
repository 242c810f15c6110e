//! The properties that every packscan kernel must have, and the saboteur that shows they can fail.
