//! Stories of the node rung that take minutes: they are in modules of this name, and told when there is time for them.

/// What the paths of these stories contain.
pub(super) const MODULE: &str = "::at_length::";

/// Those of these tests that are skipped where there is no time, with the reason.
pub(super) fn skipped(tests: &[String]) -> Vec<(String, String)> {
    let lengthy = tests.iter().filter(|test| test.contains(MODULE));
    lengthy.map(|test| (test.clone(), "takes minutes; `--all` takes the time".to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_that_take_minutes_are_known_by_their_module() {
        let tests = ["leaders::at_length::an_outage", "leaders::outages::a_lengthy_one"].map(str::to_owned);
        let names: Vec<_> = skipped(&tests).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, tests[..1]);
    }
}
