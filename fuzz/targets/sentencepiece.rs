#![no_main]
//! A SentencePiece model, and the tokens of a text with it: the input is the text's length, the text and
//! the model. The modules are built from their files: with the crate's features would come a table
//! library.

use libfuzzer_sys::fuzz_target;
use rankwise_fuzz::within_bounds;

#[path = "../../data/src/tokenizer/charsmap.rs"]
mod charsmap;
#[path = "../../data/src/tokenizer/proto.rs"]
mod proto;
#[path = "../../data/src/tokenizer/unigram.rs"]
mod unigram;

fuzz_target!(|input: &[u8]| within_bounds(input.to_vec(), |input| tokens(&input)));

fn tokens(input: &[u8]) -> usize {
    let Some((length, rest)) = input.split_first() else {
        return 0;
    };
    let (text, model) = rest.split_at(rest.len().min(usize::from(*length)));
    let Ok(model) = proto::Model::parse(model) else {
        return 0;
    };
    let (Ok(normaliser), Ok(unigram)) =
        (charsmap::Normaliser::new(&model), unigram::Unigram::new(&model))
    else {
        return 0;
    };
    let text = String::from_utf8_lossy(text);
    let normalised = normaliser.normalise(&text);
    let length = normalised.text.len();
    assert_eq!(normalised.spans.len(), length);
    let parts = unigram.segment(&normalised.text);
    // The parts follow one another to the end.
    let ends = parts.iter().map(|part| (part.start, part.end));
    let end = ends.fold(0, |at, (start, end)| {
        assert!(start == at && end > start, "{parts:?}");
        end
    });
    assert_eq!(end, length);
    parts.len()
}
