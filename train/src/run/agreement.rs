//! That all ranks of a run launch the same variants, though each chose for itself.

use packscan_runtime::cache::CacheKey;
use packscan_runtime::collective::Collective;

use super::Settings;
use crate::{Error, Result};

/// Checks that every rank runs the same variants: a gradient would otherwise depend on which rank made it, and a resumed run could not tell.
///
/// # Errors
/// [`Error::Config`] on every rank if one differs, and those of the ranks.
pub(super) fn check(settings: &Settings, ranks: &dyn Collective) -> Result<()> {
    let variants = settings.variants()?.ids();
    let products = settings.products.iter().map(|(kind, id)| format!("{kind} {id}"));
    let ids: Vec<String> = variants.into_values().chain(products).collect();
    // The first 40 bits of the digest, which a sum over all ranks still holds exactly.
    let digest = CacheKey::new(&ids).to_string();
    let mine = u64::from_str_radix(&digest[..10], 16).expect("a digest is hexadecimal") as f64;
    let mut sum = [mine];
    ranks.all_reduce_f64(&mut sum)?;
    let mut differ = [f64::from(u8::from(sum[0] != mine * ranks.size() as f64))];
    ranks.all_reduce_f64(&mut differ)?;
    if differ[0] == 0.0 {
        return Ok(());
    }
    let rule = "all ranks must run the same; give every machine the same tuning files, in packscan's cache folder or the one that \
                PACKSCAN_CACHE names";
    let got = format!("not the same on all {} ranks", ranks.size());
    Err(Error::Config { field: "variants", got, rule: rule.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use packscan_runtime::collective::Threads;

    use super::*;
    use crate::run::{Cut, Text};
    use crate::{ModelConfig, Rates};

    fn settings() -> Settings {
        let model = ModelConfig::named("tiny").unwrap().for_vocabulary(257).unwrap();
        Settings {
            name: "tiny".to_owned(),
            dtype: "f32".to_owned(),
            seed: 0,
            recompute: Vec::new(),
            eval_every: 1,
            save_every: 1,
            keep: 1,
            shard: false,
            model,
            text: Text {
                paths: Vec::new(),
                tokenizer: None,
                text_field: "text".to_owned(),
                skip_bad: false,
                tokens: 64,
                packs: 1,
                scheme: packscan_data::Scheme::Single,
                cut: Cut::Stop,
                held_out: 0.0,
            },
            rates: Rates::default(),
            variants: Default::default(),
            products: Default::default(),
        }
    }

    #[test]
    fn ranks_that_differ_are_told_so_all_of_them() {
        let loss = &("loss".to_owned(), "cross_entropy-b64-k2-v1-f32".to_owned());
        let product = &("n8-k4-nt-f32-f32".to_owned(), "lt130100-first".to_owned());
        for (odd, variant, good) in [(None, true, true), (Some(2), true, false), (Some(1), false, false)] {
            let told: Vec<Result<(), String>> = thread::scope(|scope| {
                let on_rank = move |ranks: Threads| {
                    let mut settings = settings();
                    if Some(ranks.rank()) == odd {
                        match variant {
                            true => settings.variants.extend([loss.clone()]),
                            false => settings.products.extend([product.clone()]),
                        }
                    }
                    let told = check(&settings, &ranks).map_err(|error| error.to_string());
                    ranks.leave().map(|()| told).expect("no rank is lost")
                };
                let running: Vec<_> = Threads::group(3).into_iter().map(|r| scope.spawn(move || on_rank(r))).collect();
                running.into_iter().map(|rank| rank.join().expect("no rank panicked")).collect()
            });
            assert!(told.iter().all(|told| told.is_ok() == good), "{told:?}");
            assert!(told.iter().all(|told| told.as_ref().err().is_none_or(|e| e.contains("not the same on all 3"))));
        }
    }
}
