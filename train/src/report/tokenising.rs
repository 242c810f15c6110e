//! What the terminal shows while text is read and tokenised.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar of bytes; nothing where standard error is no terminal, or where another rank shows it.
pub struct Tokenising(ProgressBar);

impl Tokenising {
    /// A bar that is `shown` or not.
    pub fn new(shown: bool) -> Self {
        let bar = ProgressBar::new(0);
        if !shown {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        // The template is a constant; were it wrong, indicatif's own bar would do.
        let style = ProgressStyle::with_template("reading text {bar:30} {bytes} of {total_bytes}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Tokenising(bar)
    }

    /// So many bytes of all are read.
    pub fn show(&self, bytes: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(bytes);
    }
}

impl Drop for Tokenising {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
