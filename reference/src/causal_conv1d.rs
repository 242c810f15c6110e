//! The causal convolution over a pack, depthwise, forward and backward.
//!
//! For a channel d and K taps (the short convolution of a Mamba block, arXiv 2312.00752, section 3.4):
//!
//! ```text
//! c[t] = b + sum_k w[k] * x[t - (K-1) + k]     the bias is optional; x before a continued sequence is its history, before a
//!                                              fresh one there is nothing, and its terms do not exist
//! out  = silu(c)                               silu is optional
//! ```
//!
//! Twice over: [`forward`] is the definition, each sequence alone; [`segmented`] goes over the whole pack tap by tap, with boundaries, as
//! a kernel may. [`backward`] has the gradients, by hand, each sequence alone. With `g` for dL/dout:
//!
//! ```text
//! p[t]  = g * silu'(c)                         p = g without silu
//! dx[s] = sum_k w[k] * p[s + (K-1) - k]        over tokens of the same sequence; of an input that the sequence left behind in its
//!                                              history, plus the gradient of that
//! dw[k] = sum_t p[t] * x[t - (K-1) + k]        db = sum_t p[t]
//! ```

use crate::Number;
use std::ops::Range;

/// What the convolution reads for every token and channel, and its options.
pub struct Inputs<'a, X> {
    /// Channels, D. At least 1.
    pub channels: usize,
    /// Taps, K. At least 2.
    pub width: usize,
    /// (T, D)
    pub x: &'a [X],
    /// Weights, the one of the oldest token first, (D, K).
    pub w: &'a [X],
    /// Bias, (D).
    pub b: Option<&'a [X]>,
    /// Whether the output is the silu of the sum.
    pub silu: bool,
}

impl<X: Number> Inputs<'_, X> {
    /// Tokens, T.
    pub fn tokens(&self) -> usize {
        self.x.len() / self.channels
    }

    /// Numbers in one history, (K - 1) * D.
    fn history_len(&self) -> usize {
        (self.width - 1) * self.channels
    }

    fn weight(&self, d: usize, k: usize) -> &X {
        &self.w[d * self.width + k]
    }

    /// c = b + sum of the terms
    fn biased(&self, d: usize, terms: impl Iterator<Item = X>) -> X {
        X::sum(self.b.map(|b| b[d].clone()).into_iter().chain(terms))
    }

    fn activated(&self, c: X) -> X {
        if self.silu { c.silu() } else { c }
    }

    fn check(&self) {
        let (d, k, t) = (self.channels, self.width, self.tokens());
        assert!(d >= 1 && k >= 2, "the convolution needs a channel and two taps, got D = {d} and K = {k}");
        assert_eq!(self.x.len(), t * d, "x has the wrong length for the shape (T, D)");
        assert_eq!(self.w.len(), d * k, "w has the wrong length for the shape (D, K)");
        self.b.iter().for_each(|b| assert_eq!(b.len(), d, "b has the wrong length for the shape (D)"));
    }
}

/// Where the sequences of a pack lie, and what they continue.
pub struct Pack<'a, X> {
    /// Length of each sequence, (S). They sum to T; 0 is legal.
    pub lengths: &'a [usize],
    /// Whether each sequence continues its history, (S).
    pub continued: &'a [bool],
    /// The last inputs of what each continued sequence continues, the oldest first, (S, K - 1, D). Not read for the others.
    pub history: &'a [X],
}

impl<'a, X> Pack<'a, X> {
    /// A pack of sequences that continue nothing. `continued` and `history` are empty.
    pub fn fresh(lengths: &'a [usize]) -> Self {
        Self { lengths, continued: &[], history: &[] }
    }

    /// The tokens of each sequence, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.lengths.iter().scan(0, |end, length| {
            let start = *end;
            *end += length;
            Some(start..*end)
        })
    }

    /// What sequence s continues, (K - 1, D); nothing, (0, D), if it is fresh.
    fn history(&self, s: usize, history_len: usize) -> &'a [X] {
        let continued = self.continued.get(s).is_some_and(|continued| *continued);
        if continued { &self.history[s * history_len..][..history_len] } else { &[] }
    }

    fn check(&self, tokens: usize, history_len: usize) {
        let sequences = self.lengths.len();
        assert_eq!(self.lengths.iter().sum::<usize>(), tokens, "the lengths do not sum to T");
        if !self.continued.is_empty() {
            assert_eq!(self.continued.len(), sequences, "continued has the wrong length for the shape (S)");
            let got = self.history.len();
            assert_eq!(got, sequences * history_len, "history has the wrong length for the shape (S, K - 1, D)");
        }
    }
}

/// What the convolution computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs<X> {
    /// (T, D)
    pub out: Vec<X>,
    /// The last inputs of each sequence, its own history included, the oldest first, (S, K - 1, D). 0 where a fresh one has too few.
    pub history: Vec<X>,
}

/// One sequence, which is all there is: its history and its tokens as the rows of one tensor.
struct Sequence<'a, X> {
    inputs: &'a Inputs<'a, X>,
    /// (H + length, D), with H = K - 1 rows of history or none.
    rows: Vec<X>,
    /// H
    past: usize,
    /// Tokens.
    length: usize,
}

impl<'a, X: Number> Sequence<'a, X> {
    fn new(pack: &Pack<'_, X>, inputs: &'a Inputs<'a, X>, s: usize, tokens: Range<usize>) -> Self {
        let channels = inputs.channels;
        let history = pack.history(s, inputs.history_len());
        let own = &inputs.x[tokens.start * channels..tokens.end * channels];
        let rows = history.iter().chain(own).cloned().collect();
        Sequence { inputs, rows, past: history.len() / channels, length: tokens.len() }
    }

    /// The row that tap k of token t sees, if there is one.
    fn row(&self, t: usize, k: usize) -> Option<usize> {
        (self.past + t + k).checked_sub(self.inputs.width - 1)
    }

    fn at(&self, row: usize, d: usize) -> &X {
        &self.rows[row * self.inputs.channels + d]
    }

    /// The taps of token t that see something, each with the row that it sees.
    fn taps(&self, t: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..self.inputs.width).filter_map(move |k| Some((k, self.row(t, k)?)))
    }

    /// c of token t and channel d.
    fn convolved(&self, t: usize, d: usize) -> X {
        self.inputs.biased(d, self.taps(t).map(|(k, row)| self.inputs.weight(d, k).mul(self.at(row, d))))
    }

    /// The rows that the sequence leaves behind, K - 1 of them; none where it has too few.
    fn left_behind(&self) -> impl Iterator<Item = Option<usize>> {
        (0..self.inputs.width - 1).map(|i| self.row(self.length, i))
    }
}

/// The book: convolves each sequence of the pack alone, and concatenates.
///
/// # Panics
///
/// Where the length of a slice is not that of its shape, or the sequences' lengths do not sum to T.
pub fn forward<X: Number>(pack: &Pack<'_, X>, inputs: &Inputs<'_, X>) -> Outputs<X> {
    inputs.check();
    pack.check(inputs.tokens(), inputs.history_len());
    let mut outputs = Outputs { out: vec![], history: vec![] };
    for (s, tokens) in pack.ranges().enumerate() {
        let alone = Sequence::new(pack, inputs, s, tokens.clone());
        for t in 0..tokens.len() {
            outputs.out.extend((0..inputs.channels).map(|d| inputs.activated(alone.convolved(t, d))));
        }
        for row in alone.left_behind() {
            let kept = |d| row.map_or(X::constant(0.0), |row| alone.at(row, d).clone());
            outputs.history.extend((0..inputs.channels).map(kept));
        }
    }
    outputs
}

/// The same over the whole pack at once: every tap of every token looks how far its sequence reaches, and chooses.
///
/// This is how a kernel does it, and could leak. Run with [`Traced`](crate::Traced), it shows that a choice lets nothing across.
///
/// # Panics
///
/// As [`forward`].
pub fn segmented<X: Number>(pack: &Pack<'_, X>, inputs: &Inputs<'_, X>) -> Outputs<X> {
    inputs.check();
    pack.check(inputs.tokens(), inputs.history_len());
    let Inputs { channels, width, x, .. } = *inputs;
    let past = width - 1;
    let starts: Vec<Range<usize>> = pack.ranges().collect();
    // What lies `back` tokens before token t, the pack's or the history's, for the sequence s.
    let earlier = |s: usize, t: usize, back: usize, d: usize| -> Option<X> {
        let age = t - starts[s].start;
        if age >= back {
            return Some(x[(t - back) * channels + d].clone());
        }
        let history = pack.history(s, past * channels);
        (!history.is_empty()).then(|| history[(past + age - back) * channels + d].clone())
    };
    let mut outputs = Outputs { out: vec![X::constant(0.0); x.len()], history: vec![] };
    for (s, range) in starts.iter().enumerate() {
        for t in range.clone() {
            for d in 0..channels {
                let terms = (0..width).filter_map(|k| Some(inputs.weight(d, k).mul(&earlier(s, t, past - k, d)?)));
                outputs.out[t * channels + d] = inputs.activated(inputs.biased(d, terms));
            }
        }
        for back in (1..width).rev() {
            let kept = |d| earlier(s, range.end, back, d).unwrap_or(X::constant(0.0));
            outputs.history.extend((0..channels).map(kept));
        }
    }
    outputs
}

/// Derivatives of the loss by what the convolution computes.
pub struct Upstream<'a, X> {
    /// By the output, (T, D).
    pub out: &'a [X],
    /// By the history that each sequence leaves behind, (S, K - 1, D). None where the loss does not depend on those.
    pub history: Option<&'a [X]>,
}

/// Derivatives of the loss by what the convolution reads, each under the name and in the shape of the input.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients<X> {
    /// (T, D)
    pub x: Vec<X>,
    /// (D, K)
    pub w: Vec<X>,
    /// (D); none if there was no bias.
    pub b: Option<Vec<X>>,
    /// (S, K - 1, D). 0 for a fresh sequence.
    pub history: Vec<X>,
}

/// The book, backward: each sequence of the pack alone, concatenated. The gradients of parameters are sums over all tokens.
///
/// # Panics
///
/// Where the length of a slice is not that of its shape, or the sequences' lengths do not sum to T.
pub fn backward<X: Number>(pack: &Pack<'_, X>, inputs: &Inputs<'_, X>, upstream: &Upstream<'_, X>) -> Gradients<X> {
    inputs.check();
    let (channels, history_len) = (inputs.channels, inputs.history_len());
    pack.check(inputs.tokens(), history_len);
    assert_eq!(upstream.out.len(), inputs.x.len(), "the gradient of out has the wrong length for the shape (T, D)");

    let mut w_terms = vec![vec![]; inputs.w.len()];
    let mut b_terms = vec![vec![]; channels];
    let mut gradients = Gradients { x: vec![], w: vec![], b: None, history: vec![] };
    for (s, tokens) in pack.ranges().enumerate() {
        let alone = Sequence::new(pack, inputs, s, tokens.clone());
        let g = &upstream.out[tokens.start * channels..tokens.end * channels];
        let mut row_terms = vec![vec![]; alone.rows.len()];
        for t in 0..tokens.len() {
            for d in 0..channels {
                let p = alone.slope(t, d, &g[t * channels + d]);
                for (k, row) in alone.taps(t) {
                    row_terms[row * channels + d].push(inputs.weight(d, k).mul(&p));
                    w_terms[d * inputs.width + k].push(p.mul(alone.at(row, d)));
                }
                b_terms[d].push(p);
            }
        }
        if let Some(kept) = upstream.history {
            let kept = &kept[s * history_len..][..history_len];
            for (i, row) in alone.left_behind().enumerate() {
                let Some(row) = row else { continue };
                for d in 0..channels {
                    row_terms[row * channels + d].push(kept[i * channels + d].clone());
                }
            }
        }
        let mut rows = sums(row_terms);
        gradients.x.extend(rows.split_off(alone.past * channels));
        rows.resize(history_len, X::constant(0.0));
        gradients.history.extend(rows);
    }
    gradients.w = sums(w_terms);
    gradients.b = inputs.b.map(|_| sums(b_terms));
    gradients
}

impl<X: Number> Sequence<'_, X> {
    /// p = g * silu'(c), of token t and channel d.
    fn slope(&self, t: usize, d: usize, g: &X) -> X {
        if self.inputs.silu { g.mul(&self.convolved(t, d).silu_derivative()) } else { g.clone() }
    }
}

fn sums<X: Number>(terms: Vec<Vec<X>>) -> Vec<X> {
    terms.into_iter().map(|terms| X::sum(terms.into_iter())).collect()
}
