//! Tables of ratios: printed, and in Markdown.

use std::fmt::Write as _;

/// What was measured so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) tables: Vec<Table>,
}

impl Report {
    /// Prints it, and keeps it.
    pub(crate) fn table(&mut self, table: Table) {
        println!("\n{}", table.markdown());
        self.tables.push(table);
    }
}

/// A table whose first column says how many there are of something.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    head: String,
    names: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, head: &str, names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { title: title.into(), head: head.to_owned(), names, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, cells: impl IntoIterator<Item = String>) {
        self.rows.push((name.into(), cells.into_iter().collect()));
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n\n| {} | {} |\n|", self.title, self.head, self.names.join(" | "));
        text.push_str(&" --- |".repeat(self.names.len() + 1));
        for (name, cells) in &self.rows {
            let _ = write!(text, "\n| {name} | {} |", cells.join(" | "));
        }
        text.push('\n');
        text
    }
}

/// Of each column the ratios of all rounds.
#[derive(Debug)]
pub(crate) struct Ratios(Vec<Vec<f64>>);

impl Ratios {
    pub(crate) fn new(columns: usize) -> Self {
        Self(vec![Vec::new(); columns])
    }

    /// One round, and which column the others are compared with.
    pub(crate) fn add(&mut self, values: impl Iterator<Item = f64>, base: usize) {
        let values: Vec<f64> = values.collect();
        for (ratios, value) in self.0.iter_mut().zip(&values) {
            ratios.push(value / values[base]);
        }
    }

    /// Medians, with the lowest and the highest.
    pub(crate) fn shown(&self) -> Vec<String> {
        let shown = |ratios: &Vec<f64>| {
            let (lowest, highest) =
                ratios.iter().fold((f64::MAX, 0.0_f64), |(low, high), it| (low.min(*it), high.max(*it)));
            format!("{:.2} ({lowest:.2} to {highest:.2})", median(ratios.clone()))
        };
        self.0.iter().map(shown).collect()
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
