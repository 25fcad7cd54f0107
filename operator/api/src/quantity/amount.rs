//! A number of devices, or a share of them.

use std::borrow::Cow;
use std::num::NonZeroU32;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{Percent, QuantityError};
use crate::choose::Amount;
use crate::rules;

/// So many, such as `3`, or a share of all, such as `"10%"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CountOrPercent {
    /// So many; from 1 on.
    Count(u32),
    /// A share, above zero.
    Percent(Percent),
}

impl CountOrPercent {
    /// The amount.
    ///
    /// # Errors
    /// With none at all, and with a text that is no percentage.
    pub fn parse(&self) -> Result<Amount, QuantityError> {
        match self {
            Self::Count(count) => NonZeroU32::new(*count)
                .map(Amount::Count)
                .ok_or_else(|| QuantityError::CountOrPercent(count.to_string())),
            Self::Percent(percent) => match percent.parse()? {
                share if share.ppm() == 0 => Err(QuantityError::CountOrPercent(percent.to_string())),
                share => Ok(Amount::Share(share)),
            },
        }
    }
}

impl JsonSchema for CountOrPercent {
    fn schema_name() -> Cow<'static, str> {
        "CountOrPercent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 16,
            "x-kubernetes-validations": rules::COUNT_OR_PERCENT,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::quantity::Share;

    fn parse(value: Value) -> Result<Amount, String> {
        let amount: CountOrPercent = serde_json::from_value(value).map_err(|error| error.to_string())?;
        amount.parse().map_err(|error| error.to_string())
    }

    #[test]
    fn a_number_is_a_count_and_a_text_a_share() {
        assert_eq!(parse(json!(3)), Ok(Amount::Count(NonZeroU32::new(3).unwrap())));
        assert_eq!(parse(json!("12.5%")), Ok(Amount::Share(Share::from_ppm(125_000).unwrap())));
        for nobody in [json!(0), json!("0%"), json!("0.0%"), json!("3"), json!(-1), json!(0.5)] {
            assert!(parse(nobody.clone()).is_err(), "{nobody}");
        }
    }

    #[test]
    fn it_is_written_as_it_was_read() {
        for value in [json!(3), json!("12.5%")] {
            let amount: CountOrPercent = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(serde_json::to_value(amount).unwrap(), value);
        }
    }
}
