//! Every kind of file, what a cache does, and what bad input gets.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Files, fixture};
use flate2::{Compression, write::GzEncoder};
use packscan_data::{Corpus, CorpusOptions, LeftOut, Skipped, Tokenizer, newer_than};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// The texts of a corpus of bytes.
fn texts(corpus: &Corpus) -> Vec<String> {
    let text = |document| {
        let ids = corpus.tokens(document).to_vec();
        assert_eq!(ids.last(), Some(&Tokenizer::BYTES_END));
        Tokenizer::Bytes.decode(&ids).unwrap()
    };
    (0..corpus.documents()).map(text).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[track_caller]
fn refused(result: packscan_data::Result<Corpus>, words: &[&str]) {
    let error = result.unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
}

/// What lies in the cache, hidden or not.
fn cached(files: &Files) -> Vec<PathBuf> {
    let corpora = fs::read_dir(files.folder.path().join("cache/corpora"));
    corpora.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

const LINES: &[u8] =
    b"{\"text\": \"one\"}\n\n{\"id\": 2, \"text\": \"two\\n\"}\n{\"text\": \"\"}\n{\"text\": \"three\"}";

#[test]
fn text_and_jsonl_plain_and_compressed() {
    let files = Files::new();
    let folder = files.path("");
    // As some editors begin UTF-8.
    files.write("a/x.txt", "\u{feff}plain \u{1f600}");
    files.write("a/y.txt.gz", [gzip(b"in two "), gzip(b"members")].concat());
    files.write("b/lines.jsonl", LINES);
    files.write("b/lines.jsonl.zst", zstd::encode_all(LINES, 3).unwrap());
    files.write("b/more.ndjson.gz", gzip(LINES));
    files.write("c/picture.png", b"\x89PNG\r\n\x1a\n\0\0");
    files.write("d/empty.txt", "");
    files.write("e/marked.jsonl", [b"\xef\xbb\xbf", LINES].concat());
    let corpus = files.open(&[folder]).unwrap();
    let lines = ["one", "two\n", "three"];
    let expected = [["plain \u{1f600}", "in two members"].as_slice(), &lines, &lines, &lines, &lines].concat();
    assert_eq!(texts(&corpus), expected);
    let binary_files = LeftOut { count: 1, named: corpus.skipped().binary_files.named.clone() };
    assert_eq!(corpus.skipped(), &Skipped { binary_files, empty_documents: 5, ..Skipped::default() });
    assert!(corpus.skipped().binary_files.named[0].ends_with("c/picture.png: byte 0 is no text"));
    assert!(corpus.name(0).ends_with("a/x.txt"));
    assert!(corpus.name(3).ends_with("lines.jsonl, line 3"), "{}", corpus.name(3));
}

/// The README's first command trains on it.
#[test]
fn this_repository_is_text_to_train_on() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let corpus = Files::new().open(&[root]).unwrap();
    assert!(corpus.documents() > 100 && corpus.total_tokens() > 1_000_000, "{corpus:?}");
}

#[test]
fn parquet_by_each_codec() {
    for codec in ["snappy", "zstd", "gzip"] {
        let files = Files::new();
        let path = fixture(&format!("texts.{codec}.parquet"));
        let mut options = files.options(std::slice::from_ref(&path));
        let open = |options: &CorpusOptions| Corpus::open(options, &Tokenizer::Bytes, |_| ());
        let corpus = open(&options).unwrap();
        assert_eq!(texts(&corpus), ["first", "zweite \u{1f600}", "first"], "{codec}");
        assert!(corpus.name(1).ends_with(".parquet, row 3"), "{}", corpus.name(1));
        assert_eq!(corpus.skipped(), &Skipped { empty_documents: 1, ..Skipped::default() }, "the null");
        options.text_field = "body".to_owned();
        refused(open(&options), &["no column \"body\" with texts", "texts in text", "--text-field"]);
        options.text_field = "id".to_owned();
        refused(open(&options), &["no column \"id\" with texts"]);
    }
    let files = Files::new();
    let whole = fs::read(fixture("texts.zstd.parquet")).unwrap();
    let path = files.write("cut.parquet", &whole[..whole.len() / 2]);
    refused(files.open(&[path]), &["cut.parquet: it is no whole Parquet file", "download it again"]);
    let other = files.write("other.parquet", fs::read(fixture("texts.brotli")).unwrap());
    refused(files.open(&[other]), &["it is compressed by brotli", "again with zstd"]);
}

#[test]
fn a_tokenizer_and_a_large_text() {
    let files = Files::new();
    let text = "A pack holds sequences.\n".repeat(100_000);
    let path = files.write("large.txt", &text);
    let tokenizer = Tokenizer::open(Some(&fixture("tokenizer.json"))).unwrap();
    let corpus = Corpus::open(&files.options(&[path]), &tokenizer, |_| ()).unwrap();
    let ids = corpus.tokens(0).to_vec();
    assert_eq!(corpus.documents(), 1);
    assert_eq!(ids.last().copied(), tokenizer.end());
    assert_eq!(tokenizer.decode(&ids).unwrap(), text, "cut into blocks and joined again");
}

#[test]
fn tokens_are_cached_until_something_changes() {
    let files = Files::new();
    let path = files.write("a.txt", "first");
    let tokenised = |tokenizer: &Tokenizer| {
        let mut worked = false;
        let corpus = Corpus::open(&files.options(std::slice::from_ref(&path)), tokenizer, |_| worked = true).unwrap();
        (corpus, worked)
    };
    assert!(tokenised(&Tokenizer::Bytes).1);
    let (corpus, worked) = tokenised(&Tokenizer::Bytes);
    assert!(!worked, "mapped");
    assert_eq!(texts(&corpus), ["first"]);
    let hf = Tokenizer::open(Some(&fixture("tokenizer.json"))).unwrap();
    assert!(tokenised(&hf).1, "another tokenizer");
    fs::write(&path, "second").unwrap();
    let before = cached(&files);
    let (changed, worked) = tokenised(&Tokenizer::Bytes);
    assert!(worked, "another file");
    assert_eq!((texts(&changed), texts(&corpus)), (vec!["second".to_owned()], vec!["first".to_owned()]));
    assert_eq!(changed.damaged(), None);
    // Damage of every file that a cached corpus has: it is built again, and said.
    for entry in cached(&files).iter().filter(|entry| !before.contains(entry)) {
        for part in ["corpus.json", "documents", "tokens-0000"] {
            let part = entry.join(part);
            let bytes = fs::read(&part).unwrap();
            let shorter = bytes[..bytes.len() - 1].to_vec();
            let mut changed = bytes;
            // The first token, a number of tokens, the version's name.
            changed[2] ^= 1;
            for (damaged, what) in [(shorter, "shorter"), (changed, "changed")] {
                fs::remove_file(&part).unwrap();
                fs::write(&part, damaged).unwrap();
                let (rebuilt, _) = tokenised(&Tokenizer::Bytes);
                assert_eq!(texts(&rebuilt), ["second"], "{what} {}", part.display());
                let said = rebuilt.damaged().unwrap_or_else(|| panic!("{what} {} was mapped", part.display()));
                assert!(part.ends_with(said.split([' ', ':']).next().unwrap()), "{said}");
                let split = rebuilt.split_held_out(0.5, 0).unwrap().0;
                assert_eq!(split.damaged(), rebuilt.damaged());
            }
        }
    }
    assert!(!tokenised(&Tokenizer::Bytes).1);
}

#[test]
fn nothing_to_train_on() {
    let files = Files::new();
    refused(files.open(&[]), &["the corpus is empty", "no file was named"]);
    refused(
        files.open(&[files.path("absent.txt")]),
        &["absent.txt cannot be read", "name files and folders that are there"],
    );
    let empty = files.write("empty.txt", "");
    refused(files.open(&[empty]), &["the corpus is empty", "empty.txt", "1 document without a token", "name files"]);
    files.write("folder/x.bin", [0, 1, 2]);
    refused(files.open(&[files.path("folder")]), &["the corpus is empty", "1 binary file in folders", "x.bin: byte 0"]);
    assert_eq!(cached(&files), Vec::<PathBuf>::new(), "nothing half-written stays");
}

#[test]
fn records_without_a_text() {
    let files = Files::new();
    let path = files.write("x.jsonl", "{\"text\": \"good\"}\n{\"body\": \"bad\"}\n{\"text\": 3}\n[]\n{\"text\": \"cut");
    refused(
        files.open(std::slice::from_ref(&path)),
        &["x.jsonl, line 2: it has no field \"text\"", "--text-field", "--skip-bad"],
    );
    assert_eq!(cached(&files), Vec::<PathBuf>::new(), "nothing half-written stays");
    let options = CorpusOptions { skip_bad: true, ..files.options(&[path]) };
    let corpus = Corpus::open(&options, &Tokenizer::Bytes, |_| ()).unwrap();
    assert_eq!(texts(&corpus), ["good"]);
    let lines = corpus.skipped().lines();
    let ends = [
        "4 bad records",
        "line 2: it has no field \"text\", only \"body\"",
        "line 3: the field \"text\" is no string",
        "line 4: it is no JSON object",
        "and 1 more",
    ];
    assert!(lines.iter().zip(ends).all(|(line, end)| line.ends_with(end)) && lines.len() == ends.len(), "{lines:#?}");
}

/// Rows of bytes that nothing says are text.
fn write_parquet(path: &Path, rows: &[&[u8]]) {
    let schema = parse_message_type("message rows { required binary text; }").unwrap();
    let mut file =
        SerializedFileWriter::new(fs::File::create(path).unwrap(), Arc::new(schema), Default::default()).unwrap();
    let mut group = file.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let rows: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(row.to_vec())).collect();
    column.typed::<ByteArrayType>().write_batch(&rows, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    file.close().unwrap();
}

/// A file, a line or a row: an error that says where and what to do, and left out and named only where that was asked for.
#[test]
fn invalid_utf8_wherever_it_is() {
    let files = Files::new();
    files.write("good/a.txt", "good");
    let latin = files.write("text/latin1.txt", b"caf\xe9");
    files.write("text/good.txt", "good");
    let lines = files.write("lines.jsonl", b"{\"text\": \"good\"}\n{\"text\": \"caf\xe9\"}\n");
    let rows = files.path("rows.parquet");
    write_parquet(&rows, &[b"good", b"caf\xe9"]);
    let folder = files.path("text");
    for (path, place) in [
        (&folder, "latin1.txt: byte 3 is not valid UTF-8"),
        (&latin, "latin1.txt: byte 3 is not valid UTF-8"),
        (&lines, "lines.jsonl, line 2: byte 13 is not valid UTF-8"),
        (&rows, "rows.parquet, row 2: byte 3 of the text is not valid UTF-8"),
    ] {
        refused(files.open(std::slice::from_ref(path)), &[place, "--skip-bad"]);
        let options = CorpusOptions { skip_bad: true, ..files.options(&[path.clone(), files.path("good")]) };
        let corpus = Corpus::open(&options, &Tokenizer::Bytes, |_| ()).unwrap();
        let LeftOut { count, named } = &corpus.skipped().bad_records;
        assert!(*count == 1 && named[0].contains(place), "{named:?}");
        assert!(texts(&corpus).iter().all(|text| text == "good"), "{:?}", texts(&corpus));
    }
}

/// A folder may hold what has nothing to do with the text; a file that is named must be what it is taken for.
#[test]
fn files_of_something_else_in_a_folder() {
    let files = Files::new();
    let folder = files.path("");
    let other = files.write("a/scores.jsonl", "{\"score\": 1}\n".repeat(2000));
    files.write("b/late.jsonl.gz", gzip(&[b"{\"score\": 1}\n".as_slice(), LINES].concat()));
    fs::copy(fixture("texts.gzip.parquet"), files.write("c.parquet", "")).unwrap();
    files.write("blank.ndjson", "\n\n");
    files.write("x.txt", "plain");
    let mut options = files.options(std::slice::from_ref(&folder));
    let open = |options: &CorpusOptions| Corpus::open(options, &Tokenizer::Bytes, |_| ());

    // Of a file in which some record has the text, the others must.
    refused(open(&options), &["late.jsonl.gz, line 1: it has no field \"text\""]);
    fs::remove_file(files.path("b/late.jsonl.gz")).unwrap();
    let corpus = open(&options).unwrap();
    assert_eq!(texts(&corpus), ["first", "zweite \u{1f600}", "first", "plain"]);
    let LeftOut { count, named } = &corpus.skipped().other_files;
    assert_eq!(*count, 1);
    assert!(named[0].ends_with("scores.jsonl: it has no field \"text\", only \"score\""), "{named:?}");
    options.text_field = "body".to_owned();
    let corpus = open(&options).unwrap();
    assert_eq!((texts(&corpus), corpus.skipped().other_files.count), (vec!["plain".to_owned()], 2));
    fs::remove_file(files.path("x.txt")).unwrap();
    refused(
        open(&options),
        &["2 files in folders without a text in the field", "scores.jsonl: it has no field \"body\"", "--text-field"],
    );

    refused(files.open(&[folder, other]), &["scores.jsonl, line 1", "--text-field"]);
}

/// By what was written, and by what was moved there however old it is.
#[test]
#[cfg(unix)]
fn files_that_are_newer_are_those_that_came_too() {
    use std::time::{Duration, SystemTime};

    let files = Files::new();
    let [kept, written, old] = ["text/kept.txt", "text/written.txt", "old.txt"].map(|name| files.write(name, "text"));
    for path in [&kept, &written, &old] {
        fs::File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    }
    // A file system's clock may lag behind by some milliseconds.
    let pause = || std::thread::sleep(Duration::from_millis(50));
    pause();
    let time = SystemTime::now();
    pause();
    let folder = files.path("text").canonicalize().unwrap();
    assert_eq!(newer_than(std::slice::from_ref(&folder), time).unwrap(), Vec::<PathBuf>::new());
    fs::write(written, "more").unwrap();
    fs::rename(old, folder.join("moved.txt")).unwrap();
    let newer = newer_than(std::slice::from_ref(&folder), time).unwrap();
    assert_eq!(newer, [folder.join("moved.txt"), folder.join("written.txt")]);
}

/// What a killed tokenisation left goes when the cache is opened next, unless it may still be alive.
#[test]
#[cfg(unix)]
fn what_a_killed_tokenisation_left_is_swept() {
    use std::time::{Duration, SystemTime};

    let files = Files::new();
    let path = files.write("a.txt", "text");
    files.open(std::slice::from_ref(&path)).unwrap();
    let hours = |hours: u64| SystemTime::now() - Duration::from_secs(3600 * hours);
    let touch = |path: &PathBuf, time| fs::File::open(path).unwrap().set_modified(time).unwrap();
    let corpora = files.folder.path().join("cache/corpora");
    for (name, folder_hours, shard_hours) in [("dead", 50, 7), ("alive", 50, 1), ("new", 1, 50)] {
        let folder = corpora.join(format!(".unfinished-{name}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("tokens-0000"), "12").unwrap();
        touch(&folder.join("tokens-0000"), hours(shard_hours));
        touch(&folder, hours(folder_hours));
    }
    // The corpus itself is older still, and stays.
    for whole in cached(&files).iter().filter(|path| !path.to_string_lossy().contains(".unfinished-")) {
        touch(whole, hours(500));
    }
    files.open(&[path]).unwrap();
    let left: Vec<PathBuf> = cached(&files);
    let names = |part: &str| left.iter().filter(|path| path.to_string_lossy().ends_with(part)).count();
    assert_eq!((left.len(), names("-dead"), names("-alive"), names("-new")), (3, 0, 1, 1), "{left:?}");
}

#[test]
fn text_that_is_none() {
    let files = Files::new();
    let path = files.write("latin1.txt", b"caf\xe9 au lait");
    refused(files.open(&[path]), &["latin1.txt: byte 3 is not valid UTF-8", "iconv"]);
}

#[test]
fn compressed_files_that_are_not_whole() {
    let files = Files::new();
    let text: Vec<u8> = (0..100_000u32).map(|i| b'a' + (i.wrapping_mul(i) % 23) as u8).collect();
    for (name, whole) in
        [("x.txt.gz", gzip(&text)), ("x.jsonl.gz", gzip(LINES)), ("x.txt.zst", zstd::encode_all(&text[..], 1).unwrap())]
    {
        let path = files.write(name, &whole[..whole.len() / 2]);
        refused(files.open(&[path]), &[name, "is not whole", "download it again"]);
    }
    let path = files.write("none.txt.gz", "no gzip at all");
    refused(files.open(std::slice::from_ref(&path)), &["none.txt.gz is not whole"]);
    let zip = files.write("text.zip", b"PK\x03\x04");
    refused(files.open(std::slice::from_ref(&zip)), &["text.zip: packscan does not read .zip; unpack it"]);
    let tar = files.write("text.tar.gz", gzip(b"ustar"));
    refused(files.open(&[tar]), &["text.tar.gz: packscan does not read .tar; unpack it"]);
    // Where that was asked for, each is left out, and named.
    let good = files.write("good.txt", "good");
    let options = CorpusOptions { skip_bad: true, ..files.options(&[path, zip, good]) };
    let corpus = Corpus::open(&options, &Tokenizer::Bytes, |_| ()).unwrap();
    assert_eq!(texts(&corpus), ["good"]);
    let LeftOut { count, named } = &corpus.skipped().bad_records;
    assert!(*count == 2 && named[0].contains("none.txt.gz is not whole") && named[1].contains("text.zip"), "{named:?}");
}

#[test]
fn a_part_is_held_out() {
    let (_files, corpus) = common::corpus(&(0..200).map(|i| 20 + i % 30).collect::<Vec<_>>());
    let (train, held) = corpus.split_held_out(0.1, 1).unwrap();
    assert_eq!(train.documents() + held.documents(), 200);
    let share = held.total_tokens() as f64 / corpus.total_tokens() as f64;
    assert!((0.1..0.11).contains(&share), "{share}");
    let names = |corpus: &Corpus| (0..corpus.documents()).map(|document| corpus.name(document)).collect::<Vec<_>>();
    let mut all = [names(&train), names(&held)].concat();
    all.sort();
    let mut expected = names(&corpus);
    expected.sort();
    assert_eq!(all, expected);
    assert_ne!(names(&held), names(&corpus.split_held_out(0.1, 2).unwrap().1), "the seed decides");
    assert_eq!(names(&held), names(&corpus.split_held_out(0.1, 1).unwrap().1));

    // One document: its end is held out.
    let (_files, one) = common::corpus(&[100]);
    let (train, held) = one.split_held_out(0.2, 0).unwrap();
    assert_eq!((train.lengths(), held.lengths()), ([80].as_slice(), [20].as_slice()));
    assert_eq!([train.tokens(0).to_vec(), held.tokens(0).to_vec()].concat(), one.tokens(0).to_vec());
    for share in [0.0, 1.0, -1.0, f64::NAN, 0.001] {
        refused(one.split_held_out(share, 0).map(|sides| sides.0), &["held out", "between 0 and 1"]);
    }
}
