//! Tables of ratios in Markdown, and plots of them.

use std::{fmt::Write as _, fs, path::PathBuf};

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::combinators::IntoLogRange,
    prelude::{IntoDrawingArea, PathElement, SVGBackend},
    series::LineSeries,
    style::{BLACK, Color, Palette, Palette99, WHITE},
};

/// Where it goes.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// A folder for plots; none are made without one.
    pub(crate) plots: Option<PathBuf>,
}

impl Report {
    pub(crate) fn table(&self, table: Table) {
        println!("\n{}", table.markdown());
    }

    /// Ratios by how many callers there are, both on logarithmic scales.
    pub(crate) fn plot(&self, file: &str, title: &str, callers: &[usize], ratios: &[(&str, Vec<f64>)]) {
        let Some(folder) = &self.plots else { return };
        fs::create_dir_all(folder).expect("a folder");
        let path = folder.join(file);
        let all = || ratios.iter().flat_map(|(_, ratios)| ratios).copied();
        let (lowest, highest) =
            all().fold((f64::MAX, f64::MIN), |(low, high), it| (low.min(it), high.max(it)));
        let (from, to) = (callers[0] as f64, callers[callers.len() - 1] as f64);
        let area = SVGBackend::new(&path, (720, 420)).into_drawing_area();
        area.fill(&WHITE).expect("a plot");
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d((from..to).log_scale(), (lowest / 1.5..highest * 1.5).log_scale())
            .expect("a plot");
        chart.configure_mesh().x_desc("callers").y_desc("ratio").draw().expect("a plot");
        for (number, (name, ratios)) in ratios.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            let points = callers.iter().map(|callers| *callers as f64).zip(ratios.iter().copied());
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))
                .expect("a plot")
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        let labels = chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(BLACK)
            .draw();
        labels.expect("a plot");
        area.present().expect("a plot");
        println!("\n![{title}]({})", path.display());
    }
}

/// A table whose first column says how many there are of something.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
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

    fn markdown(&self) -> String {
        let mut text = format!("**{}**\n\n| {} | {} |\n|", self.title, self.head, self.names.join(" | "));
        text.push_str(&" --- |".repeat(self.names.len() + 1));
        for (name, cells) in &self.rows {
            let _ = write!(text, "\n| {name} | {} |", cells.join(" | "));
        }
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

    pub(crate) fn medians(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|ratios| median(ratios.clone()))
    }

    /// Medians, with the lowest and the highest.
    pub(crate) fn shown(&self) -> impl Iterator<Item = String> {
        self.0.iter().zip(self.medians()).map(|(ratios, median)| {
            let (lowest, highest) =
                ratios.iter().fold((f64::MAX, f64::MIN), |(low, high), it| (low.min(*it), high.max(*it)));
            format!("{median:.2} ({lowest:.2} to {highest:.2})")
        })
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
