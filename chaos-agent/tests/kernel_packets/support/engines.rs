//! Stories about the delay line, told for each engine.

/// Makes a test of each of these stories for each engine. The modules' names are what `cargo xtask test` skips by.
macro_rules! for_each_engine {
    ($($story:ident),+ $(,)?) => {
        mod userspace {
            $(
                #[test]
                #[ignore = "kernel rung: needs root and the eBPF object"]
                fn $story() {
                    super::$story($crate::support::agent::Holds::Userspace);
                }
            )+
        }
        mod fq {
            $(
                #[test]
                #[ignore = "kernel rung: needs root, the eBPF object and the kernel's queue fq"]
                fn $story() {
                    super::$story($crate::support::agent::Holds::Fq);
                }
            )+
        }
    };
}

pub(crate) use for_each_engine;
