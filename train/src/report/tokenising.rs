//! What the terminal shows while text is read and tokenised.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use packscan_data::{Corpus, CorpusOptions, Tokenizer};

use super::number::counted;

/// Opens a corpus under a bar of bytes; without one where standard error is no terminal, or where another rank shows it.
///
/// # Errors
/// Those of [`Corpus::open`].
pub fn open_corpus(options: &CorpusOptions, tokenizer: &Tokenizer, shown: bool) -> packscan_data::Result<Corpus> {
    let bar = ProgressBar::new(0);
    if !shown {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    // The template is a constant; were it wrong, indicatif's own bar would do.
    let style = ProgressStyle::with_template("reading {bar:30} {bytes} of {total_bytes}, {msg}, {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let corpus = Corpus::open(options, tokenizer, |progress| {
        bar.set_length(progress.all_bytes);
        bar.set_position(progress.bytes);
        let (documents, tokens) = (progress.documents as u64, progress.tokens);
        bar.set_message(format!("{}, {}", counted(documents, "document"), counted(tokens, "token")));
    });
    bar.finish_and_clear();
    corpus
}

/// What is not in a corpus, a line for each kind and for each thing that is named; and first what was wrong with the cache, if anything was.
pub fn left_out(corpus: &Corpus) -> Vec<String> {
    let damaged = corpus
        .damaged()
        .map(|what| format!("the cached tokens were damaged ({what}), and the text was tokenised again"));
    damaged.into_iter().chain(corpus.skipped().lines()).collect()
}
