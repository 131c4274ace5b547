//! `completions` and `man`: rendered to memory first, so that a closed pipe is no failure.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use super::{Arguments, EXIT_CODES, End, output};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct CompletionArgs {
    /// Your shell
    shell: Shell,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Write wdt-connector.1 and one page for every verb into this folder
    #[arg(long, value_name = "FOLDER")]
    out_dir: Option<PathBuf>,
}

const NAME: &str = "wdt-connector";

/// Prints what the shell has to read.
pub(super) fn completions(args: &CompletionArgs) -> End {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), NAME, &mut text);
    let _ = output::write(&text);
    End::Done
}

/// Prints the manual page, or writes all of them.
pub(super) fn man(args: &ManArgs) -> anyhow::Result<End> {
    let Some(folder) = &args.out_dir else {
        let _ = output::write(&page()?);
        return Ok(End::Done);
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    let written = |file: PathBuf| format!("{} cannot be written", file.display());
    let mut root = Arguments::command().disable_help_subcommand(true);
    root.build();
    clap_mangen::generate_to(root, folder).with_context(|| written(folder.clone()))?;
    let main = folder.join(format!("{NAME}.1"));
    std::fs::write(&main, page()?).with_context(|| written(main))?;
    Ok(End::Done)
}

/// The page of the whole program: what clap knows, and what it does not.
fn page() -> anyhow::Result<Vec<u8>> {
    let man = Man::new(Arguments::command());
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    man.render_subcommands_section(&mut out)?;
    let mut more = Roff::new();
    more.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        more.control("TP", []);
        more.text([roman(code)]);
        more.text([roman(meaning)]);
    }
    more.control("SH", ["ENVIRONMENT"]);
    more.text([roman("WDT_CONFIG names the configuration file. WDT__SECTION__KEY sets any key of it, secrets included; an empty value unsets an optional key.")]);
    more.control("SH", ["EXAMPLE"]);
    more.text([roman("wdt-connector --config connector.toml check")]);
    more.to_writer(&mut out)?;
    man.render_version_section(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_names_every_verb_and_exit_code() {
        let text = String::from_utf8(page().unwrap()).unwrap();
        for verb in Arguments::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            assert!(
                text.contains(&format!(
                    "wdt\\-connector\\-{}",
                    verb.get_name().replace('-', "\\-")
                )),
                "{} is not in\n{text}",
                verb.get_name()
            );
        }
        for (_, meaning) in EXIT_CODES {
            let first = meaning.split([',', ':']).next().unwrap();
            assert!(text.contains(first), "{first:?} is not in\n{text}");
        }
    }

    #[test]
    fn every_verb_gets_a_page() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(man(&ManArgs { out_dir: Some(folder.path().to_owned()) }).unwrap(), End::Done);
        let pages: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|page| page.unwrap().file_name().into_string().unwrap())
            .collect();
        for page in ["wdt-connector.1", "wdt-connector-run.1", "wdt-connector-config-print.1"] {
            assert!(pages.iter().any(|found| found == page), "{page} is not among {pages:?}");
        }
    }

    #[test]
    fn a_shell_learns_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), NAME, &mut text);
            assert!(String::from_utf8(text).unwrap().contains("schemas"), "{shell}");
        }
    }
}
