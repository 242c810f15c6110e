//! What the terminal shows while text is read and tokenised.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use packscan_data::{Corpus, CorpusOptions, Tokenizer};

use super::number::thousands;

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
        let (documents, tokens) = (thousands(progress.documents as u64), thousands(progress.tokens));
        bar.set_message(format!("{documents} documents, {tokens} tokens"));
    });
    bar.finish_and_clear();
    corpus
}

/// What is not in a corpus, a line for each kind; and first what was wrong with the cache, if anything was.
pub fn left_out(corpus: &Corpus) -> Vec<String> {
    let skipped = corpus.skipped();
    let first = |what: &Option<String>| what.as_ref().map(|first| format!(", the first: {first}")).unwrap_or_default();
    let kinds = [
        (skipped.binary_files, "files in folders that are no text".to_owned()),
        (
            skipped.other_files,
            format!("files in folders without a text in the field that was asked for{}", first(&skipped.first_other)),
        ),
        (skipped.empty_documents, "documents without a token".to_owned()),
        (skipped.bad_records, format!("bad records{}", first(&skipped.first_bad))),
    ];
    let some = kinds.into_iter().filter(|(count, _)| *count > 0);
    let left_out = some.map(|(count, what)| format!("left out: {} {what}", thousands(count)));
    let damaged = corpus
        .damaged()
        .map(|what| format!("the cached tokens were damaged ({what}), and the text was tokenised again"));
    damaged.into_iter().chain(left_out).collect()
}
