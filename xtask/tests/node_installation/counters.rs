//! What a page of metrics counts (the text format of Prometheus 0.0.4, as far as our programs write it).

use std::collections::BTreeMap;

/// One series.
#[derive(Debug, PartialEq)]
pub(crate) struct Series {
    /// Its name.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its value.
    pub(crate) value: f64,
}

/// A page of metrics.
#[derive(Debug, Default)]
pub(crate) struct Page(Vec<Series>);

impl Page {
    /// Reads a page; comments are left out.
    pub(crate) fn read(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(series).collect())
    }

    /// The sum of all series with that name and these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |series: &&Series| {
            series.name == name
                && labels
                    .iter()
                    .all(|(label, value)| series.labels.get(*label).is_some_and(|has| has == value))
        };
        self.0.iter().filter(fits).map(|series| series.value).sum()
    }

    /// As [`Page::sum`], of a counter.
    #[expect(clippy::cast_possible_truncation, reason = "counters of a test are whole and small")]
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        self.sum(name, labels) as usize
    }
}

fn series(line: &str) -> Option<Series> {
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
    // No label of ours has a comma or a quote in its value.
    let labels = labels.strip_suffix('}')?.split(',').filter_map(|label| {
        let (name, value) = label.split_once("=\"")?;
        Some((name.to_owned(), value.strip_suffix('"')?.to_owned()))
    });
    Some(Series { name: name.to_owned(), labels: labels.collect(), value: value.parse().ok()? })
}

#[test]
fn a_page_is_read_and_summed_by_labels() {
    let page = Page::read("# HELP a b\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nb 5\n");
    assert_eq!(page.count("a", &[("x", "1")]), 7);
    assert_eq!(page.count("a", &[("x", "1"), ("y", "3")]), 4);
    assert_eq!(page.count("b", &[]), 5);
    assert_eq!(page.count("a", &[("x", "2")]), 0);
}
