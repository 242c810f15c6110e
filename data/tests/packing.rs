//! Whatever the documents, the scheme and the seed: every token is in one pack, once, with the right target.

mod common;

use std::collections::HashMap;

use common::corpus;
use packscan_data::{Corpus, Error, NO_TARGET, Pack, PackOptions, Packs, Position, Scheme, Strategy, prefetch};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

fn schemes() -> impl proptest::strategy::Strategy<Value = Scheme> {
    prop_oneof![
        Just(Scheme::Packed(Strategy::Sequential)),
        Just(Scheme::Packed(Strategy::FirstFit)),
        (1..20usize).prop_map(|window| Scheme::Packed(Strategy::BestFitDecreasing { window })),
        Just(Scheme::Packed(Strategy::Split)),
        Just(Scheme::Single),
        (1..5usize).prop_map(|batch| Scheme::Padded { batch }),
    ]
}

fn options() -> impl proptest::strategy::Strategy<Value = PackOptions> {
    (schemes(), 10..200usize, proptest::option::of(0..3u64)).prop_map(|(scheme, tokens, seed)| PackOptions {
        tokens,
        scheme,
        seed,
        epochs: Some(1),
    })
}

/// Checks one pack by itself, and gives each sequence: its document and its tokens with their targets, padding left out.
fn sequences(pack: &Pack, options: &PackOptions) -> Vec<(u32, Vec<(u32, u32)>)> {
    assert!(!pack.lengths.is_empty() && pack.lengths.iter().all(|length| *length > 0));
    assert!(pack.tokens.len() <= options.tokens, "{} of {}", pack.tokens.len(), options.tokens);
    assert_eq!(pack.tokens.len(), pack.targets.len());
    assert_eq!(pack.lengths.iter().sum::<usize>(), pack.tokens.len());
    assert_eq!(pack.lengths.len(), pack.continued.len());
    assert_eq!(pack.lengths.len(), pack.documents.len());
    assert!(!pack.continued[1..].contains(&true), "only the first goes on");
    let mut at = 0;
    let mut padding = 0;
    let mut found = Vec::new();
    for (document, length) in pack.documents.iter().zip(&pack.lengths) {
        let mut sequence: Vec<_> = (at..at + length).map(|token| (pack.tokens[token], pack.targets[token])).collect();
        // No document here holds a token 0.
        let real = sequence.iter().position(|token| token.0 == 0).unwrap_or(*length);
        assert!(sequence[real..].iter().all(|token| *token == (0, NO_TARGET)));
        padding += length - real;
        sequence.truncate(real);
        found.push((*document, sequence));
        at += length;
    }
    assert_eq!(pack.real, pack.tokens.len() - padding);
    match options.scheme {
        Scheme::Packed(_) => assert_eq!((padding, pack.padding), (0, options.tokens - pack.real)),
        Scheme::Single => assert_eq!((padding, pack.padding, pack.lengths.len()), (0, 0, 1)),
        Scheme::Padded { batch } => {
            assert_eq!(pack.padding, padding);
            assert!(pack.lengths.len() <= batch);
            assert!(found.iter().any(|(_, sequence)| sequence.len() == pack.lengths[0]), "the longest is not padded");
            assert!(pack.lengths.iter().all(|length| *length == pack.lengths[0]));
        }
    }
    found
}

/// Every token of every document once, its target the next of the document.
fn check_epoch(corpus: &Corpus, packs: &[Pack], options: &PackOptions) {
    let split = options.scheme == Scheme::Packed(Strategy::Split);
    // The pieces of a document may lie anywhere, save where they are continued: sort them by what they hold.
    let mut pieces: HashMap<u32, Vec<Vec<(u32, u32)>>> = HashMap::new();
    let mut open: Option<u32> = None;
    for (number, pack) in packs.iter().enumerate() {
        for (index, (document, sequence)) in sequences(pack, options).into_iter().enumerate() {
            assert_eq!(pack.continued[index], index == 0 && open.is_some());
            let all = pieces.entry(document).or_default();
            if pack.continued[index] {
                assert_eq!(open, Some(document), "what goes on is the same document");
                all.last_mut().unwrap().extend(sequence);
            } else {
                all.push(sequence);
            }
        }
        open = pack.continues.then(|| *pack.documents.last().unwrap());
        assert!(!pack.continues || split);
        if split && number + 1 < packs.len() {
            assert_eq!(pack.tokens.len(), options.tokens, "only the last pack is not full");
        }
    }
    assert_eq!(open, None);
    assert_eq!(pieces.len(), corpus.documents(), "every document is there");
    for (document, pieces) in pieces {
        let tokens = corpus.tokens(document as usize).to_vec();
        let targets = tokens[1..].iter().copied().chain([NO_TARGET]);
        let expected: Vec<(u32, u32)> = tokens.iter().copied().zip(targets).collect();
        let mut want: Vec<Vec<_>> = match split {
            true => vec![expected],
            false => expected.chunks(options.longest()).map(<[_]>::to_vec).collect(),
        };
        let mut got = pieces;
        want.sort_unstable();
        got.sort_unstable();
        assert_eq!(got, want, "document {document}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn every_token_is_in_one_pack(lengths in prop::collection::vec(2..400u32, 1..60), options in options()) {
        let (_files, corpus) = corpus(&lengths);
        prop_assert_eq!(corpus.lengths(), &lengths);
        let packs: Vec<Pack> = Packs::new(&corpus, options.clone()).unwrap().collect();
        check_epoch(&corpus, &packs, &options);
    }

    #[test]
    fn it_goes_on_from_any_position(
        lengths in prop::collection::vec(2..100u32, 1..30),
        options in options(),
        stop in 0..40usize,
    ) {
        let (_files, corpus) = corpus(&lengths);
        let options = PackOptions { epochs: None, ..options };
        let mut packs = Packs::new(&corpus, options.clone()).unwrap();
        for _ in 0..stop {
            packs.next().unwrap();
        }
        let position: Position = serde_json::from_str(&serde_json::to_string(&packs.position()).unwrap()).unwrap();
        let mut resumed = Packs::resume(&corpus, options, &position).unwrap();
        for _ in 0..40 {
            prop_assert_eq!(packs.next(), resumed.next());
            prop_assert_eq!(packs.position(), resumed.position());
        }
    }

    #[test]
    fn passing_over_packs_is_reading_them(
        lengths in prop::collection::vec(2..100u32, 1..30),
        options in options(),
        over in 0..20usize,
    ) {
        let (_files, corpus) = corpus(&lengths);
        let options = PackOptions { epochs: None, ..options };
        let mut read = Packs::new(&corpus, options.clone()).unwrap();
        let mut passed = Packs::new(&corpus, options).unwrap();
        for _ in 0..over {
            read.next();
        }
        prop_assert_eq!(read.next(), passed.nth(over));
        prop_assert_eq!(read.position(), passed.position());
    }
}

const ALL: [Scheme; 6] = [
    Scheme::Packed(Strategy::Sequential),
    Scheme::Packed(Strategy::FirstFit),
    Scheme::Packed(Strategy::BestFitDecreasing { window: 16 }),
    Scheme::Packed(Strategy::Split),
    Scheme::Single,
    Scheme::Padded { batch: 3 },
];

#[test]
fn a_seed_decides_the_order() {
    let lengths: Vec<u32> = (0..64).map(|i| 2 + i * 13 % 90).collect();
    let (_files, corpus) = corpus(&lengths);
    for scheme in ALL {
        let epochs = |seed| {
            let options = PackOptions { seed, epochs: Some(2), ..PackOptions::new(300, scheme) };
            Packs::new(&corpus, options).unwrap().map(|pack| pack.documents).collect::<Vec<_>>()
        };
        assert_eq!(epochs(Some(1)), epochs(Some(1)), "{scheme:?}");
        assert_ne!(epochs(Some(1)), epochs(Some(2)), "{scheme:?}");
        let shuffled = epochs(Some(1));
        assert_ne!(shuffled[..shuffled.len() / 2], shuffled[shuffled.len().div_ceil(2)..], "epochs differ, {scheme:?}");
        let kept = epochs(None);
        assert_eq!(kept[..kept.len() / 2], kept[kept.len() / 2..], "{scheme:?}");
        assert!(kept[0].contains(&0) && kept.concat().len() >= 128, "{scheme:?}");
    }
}

#[test]
fn packs_do_not_come_sorted_by_length() {
    let lengths: Vec<u32> = (0..600).map(|i| 2 + i * 17 % 300).collect();
    let (_files, corpus) = corpus(&lengths);
    let scheme = Scheme::Packed(Strategy::BestFitDecreasing { window: 600 });
    let packs = Packs::new(&corpus, PackOptions { epochs: Some(1), ..PackOptions::new(600, scheme) }).unwrap();
    let longest: Vec<usize> = packs.map(|pack| pack.lengths.into_iter().max().unwrap()).collect();
    let falls = longest.windows(2).filter(|pair| pair[0] > pair[1]).count();
    let pairs = longest.len() - 1;
    assert!((pairs / 4..pairs * 3 / 4).contains(&falls), "{falls} of {pairs} fall");
}

#[test]
fn documents_that_are_cut_are_counted() {
    let (_files, corpus) = corpus(&[50, 101, 300, 100]);
    for scheme in ALL {
        let packs = Packs::new(&corpus, PackOptions::new(100, scheme)).unwrap();
        let cut = match scheme {
            Scheme::Packed(Strategy::Split) => 0,
            Scheme::Padded { .. } => 4, // Rows of 33.
            _ => 2,
        };
        assert_eq!(packs.cut_documents(), cut, "{scheme:?}");
    }
}

#[test]
fn a_thread_gives_the_same() {
    let (_files, corpus) = corpus(&[50, 20, 30, 70, 5]);
    let options = PackOptions { epochs: Some(3), ..PackOptions::new(64, Scheme::Packed(Strategy::Split)) };
    let packs = || Packs::new(&corpus, options.clone()).unwrap();
    let mut by_hand = packs();
    let mut seen = 0;
    for (pack, after) in prefetch(packs(), 2).unwrap() {
        assert_eq!(Some(pack), by_hand.next());
        assert_eq!(after, by_hand.position());
        seen += 1;
    }
    assert_eq!((seen, by_hand.next()), (9, None));
    // An endless one ends with its owner.
    let mut endless =
        prefetch(Packs::new(&corpus, PackOptions { epochs: None, ..options.clone() }).unwrap(), 2).unwrap();
    assert!(endless.next().is_some());
    drop(endless);
}

#[test]
fn options_and_positions_that_make_no_sense() {
    let (_files, this) = corpus(&[50, 20]);
    let error = |options: PackOptions| Packs::new(&this, options).err().unwrap().to_string();
    let window = Scheme::Packed(Strategy::BestFitDecreasing { window: 0 });
    assert!(error(PackOptions::new(64, window)).starts_with("window is 0"));
    assert!(error(PackOptions::new(64, Scheme::Padded { batch: 0 })).starts_with("batch is 0"));
    assert!(error(PackOptions::new(15, Scheme::Padded { batch: 8 })).starts_with("batch is 8: each sequence"));
    assert!(error(PackOptions::new(1, Scheme::Single)).starts_with("tokens is 1"));

    let options = PackOptions::new(64, Scheme::Single);
    let position = Packs::new(&this, options.clone()).unwrap().position();
    let refused = |corpus: &Corpus, options: PackOptions, position: &Position| {
        matches!(Packs::resume(corpus, options, position), Err(Error::Position { .. }))
    };
    let (_other_files, other) = corpus(&[50, 21]);
    assert!(refused(&other, options.clone(), &position));
    assert!(refused(&this, PackOptions { seed: Some(7), ..options.clone() }, &position));
    assert!(refused(&this, options.clone(), &Position { document: 3, ..position }));
    assert!(refused(&this, options.clone(), &Position { document: 1, token: 60, ..position }));
    assert!(!refused(&this, options, &Position { epoch: 9, document: 1, ..position }));
}
