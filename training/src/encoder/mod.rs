//! Sentence features from a pretrained BERT encoder: tokens in, mean-pooled last hidden states out.

mod bert;

use std::path::Path;

use candle_core::{DType, Tensor};
use rayon::prelude::*;
use tokenizers::{Tokenizer, TruncationParams};

use self::bert::Bert;
use crate::{DeviceName, Error, Precision};

/// Sequences that are encoded together. Part of the result's bits: a matrix product may add up in
/// another order when it has other dimensions.
const BATCH: usize = 32;

/// A BERT checkpoint folder (`config.json`, `model.safetensors`, `tokenizer.json`) as a map from
/// texts to vectors.
pub struct SentenceEncoder {
    bert: Bert,
    tokenizer: Tokenizer,
}

impl SentenceEncoder {
    /// Loads the folder.
    ///
    /// Texts are cut where `tokenizer.json` says, or else at the model's number of positions.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file and the key or tensor that is missing or misshapen;
    /// [`Error::Data`] if a file cannot be read; [`Error::Device`].
    pub fn load(folder: &Path, precision: Precision, device: DeviceName) -> Result<Self, Error> {
        let bert = Bert::load(folder, precision.dtype(), &device.open()?)?;
        let path = folder.join("tokenizer.json");
        let tokenizer_error = |error: tokenizers::Error| Error::Model {
            path: path.clone(),
            what: "file".to_owned(),
            expected: "a tokenizer.json".to_owned(),
            found: error.to_string(),
        };
        let text = rankwise_data::read_text(&path)?;
        let mut tokenizer: Tokenizer = text.parse().map_err(tokenizer_error)?;
        tokenizer.with_padding(None);
        let positions = bert.config.max_position_embeddings;
        let truncation = tokenizer.get_truncation().cloned().unwrap_or_default();
        let truncation = TruncationParams {
            max_length: truncation.max_length.min(positions),
            ..truncation
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(tokenizer_error)?;
        if tokenizer.get_vocab_size(true) > bert.config.vocab_size {
            return Err(Error::Model {
                path,
                what: "vocabulary".to_owned(),
                expected: format!("at most the model's {} entries", bert.config.vocab_size),
                found: tokenizer.get_vocab_size(true).to_string(),
            });
        }
        Ok(Self { bert, tokenizer })
    }

    /// Length of a feature vector.
    pub fn width(&self) -> usize {
        self.bert.config.hidden_size
    }

    /// The token ids of `text`, special tokens included.
    ///
    /// # Errors
    /// [`Error::Tensor`] with the tokenizer's reason.
    pub fn token_ids(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self
            .tokenizer
            .encode(text, true)
            .map_err(|error| Error::Tensor(candle_core::Error::msg(error)))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Features of `texts`, texts × width, row-major: the mean of the last hidden states over a
    /// text's tokens, not normalised. `done` is told of every finished batch's number of texts.
    ///
    /// The bits do not depend on the number of threads.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn encode(&self, texts: &[&str], done: impl Fn(usize) + Sync) -> Result<Vec<f64>, Error> {
        crate::single_threaded_products();
        let batches = texts
            .par_chunks(BATCH)
            .map(|batch| {
                let ids = batch
                    .iter()
                    .map(|text| self.token_ids(text))
                    .collect::<Result<Vec<_>, _>>()?;
                let features = self.pool(&ids)?;
                done(batch.len());
                Ok(features)
            })
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(batches.concat())
    }

    /// Mean-pooled features of one batch of token sequences, sequences × width.
    fn pool(&self, ids: &[Vec<u32>]) -> Result<Vec<f64>, Error> {
        let sequences: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let hidden = self.bert.forward(&sequences)?;
        let mut start = 0;
        let mut means = Vec::with_capacity(ids.len());
        for sequence in &sequences {
            means.push(hidden.narrow(0, start, sequence.len())?.mean_keepdim(0)?);
            start += sequence.len();
        }
        let means = Tensor::cat(&means, 0)?.to_dtype(DType::F64)?;
        Ok(means.flatten_all()?.to_vec1()?)
    }
}
