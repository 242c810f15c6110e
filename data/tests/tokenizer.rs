//! Text to ids and back, by bytes and by a Hugging Face tokenizer whose ids the original library gave.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{Files, fixture};
use packscan_data::{Error, Tokenizer};

fn hf() -> Tokenizer {
    Tokenizer::open(Some(&fixture("tokenizer.json"))).unwrap()
}

/// Decodes one id after another; each text is as the decoder gave it.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut decoder = tokenizer.decoder();
    let mut texts: Vec<String> = ids.iter().map(|id| decoder.push(*id).unwrap()).collect();
    texts.push(decoder.finish().unwrap());
    texts
}

#[test]
fn bytes() {
    let tokenizer = Tokenizer::open(None).unwrap();
    assert_eq!((tokenizer.vocabulary(), tokenizer.end()), (257, Some(256)));
    assert_eq!(tokenizer.encode("hé").unwrap(), [104, 195, 169]);
    assert_eq!(tokenizer.decode(&[104, 195, 169, 256, 33]).unwrap(), "hé!");
    assert_eq!(tokenizer.decode(&[104, 195]).unwrap(), "h\u{fffd}");
    assert!(matches!(tokenizer.decode(&[104, 257]), Err(Error::Id { id: 257, vocabulary: 257 })));
}

/// What a checkpoint has of bytes is a Hugging Face tokenizer with the same ids, to that library as well.
#[test]
fn bytes_are_a_hugging_face_tokenizer_too() {
    let files = Files::new();
    let paths: Vec<_> = Tokenizer::Bytes.files().into_iter().map(|(name, bytes)| files.write(name, bytes)).collect();
    assert!(matches!(Tokenizer::open(Some(&paths[0])).unwrap(), Tokenizer::Bytes));
    // One byte more, and it is read as any other.
    let text = [fs::read(&paths[0]).unwrap(), b"\n".to_vec()].concat();
    let Tokenizer::Hf(_) = Tokenizer::open(Some(&files.write("tokenizer.json", text))).unwrap() else { panic!() };
    let hf = Tokenizer::open(Some(&paths[0])).unwrap();
    assert_eq!((hf.vocabulary(), hf.end()), (257, Some(256)));
    let every_byte: String = (0..=0x10FFFF).step_by(61).filter_map(char::from_u32).collect();
    for text in ["", "hé 😀!", " a  b\r\n\tc\0", &every_byte] {
        let ids = Tokenizer::Bytes.encode(text).unwrap();
        assert_eq!(hf.encode(text).unwrap(), ids, "{text:.20}");
        assert_eq!(hf.decode(&ids).unwrap(), text, "{text:.20}");
    }
    assert_eq!(hf.encode("<|endoftext|>").unwrap(), [256], "the one text that differs");
}

#[test]
fn a_tokenizer_gives_its_files_back() {
    let files = Files::new();
    let read = fs::read(fixture("tokenizer.json")).unwrap();
    let path = files.write("tokenizer.json", &read);
    assert_eq!(Tokenizer::open(Some(&path)).unwrap().files(), [("tokenizer.json", &read[..])]);
    files.write("tokenizer_config.json", "{}");
    let both = [("tokenizer.json", &read[..]), ("tokenizer_config.json", b"{}")];
    assert_eq!(Tokenizer::open(Some(&path)).unwrap().files(), both);
}

#[test]
fn the_ids_are_those_of_the_original() {
    let tokenizer = hf();
    assert_eq!((tokenizer.vocabulary(), tokenizer.end()), (300, Some(0)));
    let expected = fs::read_to_string(fixture("tokenizer.expected.json")).unwrap();
    let expected: BTreeMap<String, Vec<u32>> = serde_json::from_str(&expected).unwrap();
    assert_eq!(expected.len(), 3);
    for (text, ids) in expected {
        assert!(ids.len() > 4, "longer than the truncation that the file asks for");
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text.replace("<|endoftext|>", ""));
    }
    assert!(matches!(tokenizer.decode(&[300]), Err(Error::Id { id: 300, vocabulary: 300 })));
}

#[test]
fn characters_are_held_back_until_they_are_whole() {
    for tokenizer in [Tokenizer::Bytes, hf()] {
        let text = "hé 😀!";
        let texts = streamed(&tokenizer, &tokenizer.encode(text).unwrap());
        assert_eq!(texts.concat(), text);
        assert!(texts.iter().all(|text| !text.contains('\u{fffd}')), "{texts:?}");
        assert!(texts.contains(&"😀".to_owned()) && texts[0] == "h", "{texts:?}");
    }
    let bytes = Tokenizer::Bytes;
    assert_eq!(streamed(&bytes, &[104, 0xF0, 0x9F]), ["h", "", "", "\u{fffd}"]);
    assert_eq!(streamed(&bytes, &[0xFF, 104]).concat(), "\u{fffd}h", "what comes after a wrong byte is right");
    let garbage = streamed(&bytes, &[0xFF; 100]);
    assert!(garbage[..20].concat().contains('\u{fffd}'), "nothing is held back forever");
    let mut decoder = bytes.decoder();
    assert!(decoder.push(400).is_err());
    assert_eq!(decoder.push(104).unwrap(), "h", "an unknown id does no harm");
}

#[test]
fn the_end_is_what_the_configuration_says() {
    let files = Files::new();
    let tokenizer = files.write("tokenizer.json", fs::read(fixture("tokenizer.json")).unwrap());
    let end = || Tokenizer::open(Some(&tokenizer)).unwrap().end();
    let exclamation = hf().encode("!").unwrap()[0];
    assert_eq!(end(), Some(0));
    files.write("tokenizer_config.json", r#"{"eos_token": "!"}"#);
    assert_eq!(end(), Some(exclamation));
    files.write("tokenizer_config.json", r#"{"eos_token": {"content": "!", "special": true}}"#);
    assert_eq!(end(), Some(exclamation));
    files.write("tokenizer_config.json", r#"{"eos_token": null}"#);
    assert_eq!(end(), Some(0));
}

#[test]
fn what_is_no_tokenizer() {
    let files = Files::new();
    for content in ["", "not JSON", "{}", r#"{"model": {"type": "BPE"}}"#] {
        let error = Tokenizer::open(Some(&files.write("tokenizer.json", content))).unwrap_err().to_string();
        for words in ["tokenizer.json is no tokenizer: ", "name the tokenizer.json of a Hugging Face model", "bytes"] {
            assert!(error.contains(words), "{error}");
        }
    }
    let error = Tokenizer::open(Some(&files.path("absent.json"))).unwrap_err().to_string();
    assert!(error.contains("absent.json is no tokenizer: it cannot be read"), "{error}");
}
