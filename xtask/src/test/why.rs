//! Why tests failed, in few words: what stands at the end of all output, where whoever reads a long log looks first.

/// Lines of a failure at most …
const LINES: usize = 12;
/// … and characters of a line.
const WIDTH: usize = 400;

/// What a test program printed of a test that failed, from where it panicked, without the backtrace. Nothing where it printed nothing, or
/// died before it could.
pub(super) fn of_test(stdout: &str, name: &str) -> String {
    let head = format!("---- {name} stdout ----");
    let said: Vec<&str> = stdout
        .lines()
        .skip_while(|line| *line != head)
        .skip(1)
        .take_while(|line| !line.starts_with("---- ") && *line != "failures:")
        .collect();
    let panic = said.iter().position(|line| line.contains(" panicked at ")).unwrap_or_default();
    let is_told = |line: &&&str| !line.starts_with("note: run with") && !line.starts_with("stack backtrace:");
    let told = said[panic..].iter().take_while(is_told).filter(|line| !line.trim().is_empty());
    told.take(LINES).map(|line| format!("\n    {}", cut(line))).collect()
}

fn cut(line: &str) -> String {
    let mut short: String = line.chars().take(WIDTH).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_test_itself_said_from_its_panic_on() {
        let stdout = "test a ... FAILED\ntest b ... FAILED\n\nfailures:\n\n---- a stdout ----\nbefore\n\n\
            thread 'a' (7) panicked at src/a.rs:1:2:\nassertion `left == right` failed\n  left: 1\n right: 2\n\
            note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n\n\
            ---- b stdout ----\nError: it is broken\n\n\nfailures:\n    a\n    b\n\ntest result: FAILED.";
        let panic = "\n    thread 'a' (7) panicked at src/a.rs:1:2:\n    assertion `left == right` failed\n      left: 1\n     right: 2";
        assert_eq!(of_test(stdout, "a"), panic);
        assert_eq!(of_test(stdout, "b"), "\n    Error: it is broken");
        assert_eq!(of_test(stdout, "c"), "");
    }

    #[test]
    fn however_much_it_said_a_little_is_told() {
        let stdout =
            format!("---- a stdout ----\n{}", format!("{}\n", "ä".repeat(2 * WIDTH)).repeat(2 * LINES));
        let told = of_test(&stdout, "a");
        assert_eq!(told.lines().count(), 1 + LINES);
        assert!(told.lines().skip(1).all(|line| line.chars().count() == 4 + WIDTH + 1), "{told}");
    }
}
