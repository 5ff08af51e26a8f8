//! `Table`: rows and columns as Python values.

use std::ops::Range;

use ckptdiff_engine::{Cell, Column, DiffTable, StatsTable, Table as _, json_rows};
use pyo3::exceptions::{PyIndexError, PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

#[pyclass(frozen, module = "ckptdiff._core")]
pub(crate) struct Table(pub(crate) Rows);

/// The rows of either.
pub(crate) enum Rows {
    Diff(DiffTable),
    Stats(StatsTable),
}

macro_rules! delegate {
    ($self:ident, $table:ident => $body:expr) => {
        match &$self.0 {
            Rows::Diff($table) => $body,
            Rows::Stats($table) => $body,
        }
    };
}

type Bins = Vec<(i32, u64)>;

#[pymethods]
impl Table {
    fn __len__(&self) -> usize {
        delegate!(self, table => table.len())
    }

    #[getter]
    fn column_names(&self) -> Vec<&str> {
        delegate!(self, table => table.column_names().collect())
    }

    #[pyo3(signature = (name, start = 0, stop = None))]
    fn column<'py>(
        &self,
        python: Python<'py>,
        name: &str,
        start: usize,
        stop: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let rows = self.rows_within(start, stop.unwrap_or(usize::MAX));
        let column = python.detach(|| delegate!(self, table => table.column(name, rows)));
        let column = column.ok_or_else(|| PyKeyError::new_err(name.to_owned()))?;
        column_value(python, column)
    }

    fn columns<'py>(
        &self,
        python: Python<'py>,
        names: Vec<String>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let unknown = || PyKeyError::new_err(names.join(", "));
        let none = delegate!(self, table => table.columns(&known, 0..0)).ok_or_else(unknown)?;
        let mut values: Vec<_> = none
            .iter()
            .map(|column| ColumnValue::new(python, column))
            .collect();
        let rows = self.__len__();
        // A slice at a time: a cell takes more memory than the text that it becomes.
        for start in (0..rows).step_by(COLUMN_SLICE) {
            let slice = start..rows.min(start + COLUMN_SLICE);
            let columns = python.detach(|| delegate!(self, table => table.columns(&known, slice)));
            for (value, column) in values.iter_mut().zip(columns.ok_or_else(unknown)?) {
                value.extend(python, column)?;
            }
        }
        values
            .into_iter()
            .map(|value| value.finish(python))
            .collect()
    }

    fn rows<'py>(
        &self,
        python: Python<'py>,
        start: usize,
        stop: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        let rows = self
            .rows_within(start, stop)
            .map(|row| {
                let cells = delegate!(self, table => table.row(row));
                let values = cells
                    .into_iter()
                    .map(|cell| value(python, cell))
                    .collect::<PyResult<Vec<_>>>()?;
                PyTuple::new(python, values)
            })
            .collect::<PyResult<Vec<_>>>()?;
        PyList::new(python, rows)
    }

    fn json_rows(&self, python: Python<'_>, start: usize, stop: usize) -> String {
        let rows = self.rows_within(start, stop);
        python.detach(|| delegate!(self, table => json_rows(table, rows)))
    }

    fn histogram(&self, row: usize) -> PyResult<Option<(u64, Bins)>> {
        if row >= self.__len__() {
            return Err(PyIndexError::new_err("no row of that index"));
        }
        let histogram = delegate!(self, table => table.histogram(row));
        Ok(histogram.map(|histogram| (histogram.zeros(), histogram.bins().collect())))
    }

    fn merged(&self, python: Python<'_>, groups: Vec<i64>, names: Vec<String>) -> PyResult<Self> {
        let rows = self.__len__();
        if groups.len() != rows {
            return Err(PyValueError::new_err(format!(
                "{} groups for {rows} rows",
                groups.len()
            )));
        }
        if groups.iter().any(|group| *group >= names.len() as i64) {
            return Err(PyValueError::new_err("a group has no name"));
        }
        Ok(Self(python.detach(|| match &self.0 {
            Rows::Diff(table) => Rows::Diff(table.merged(&groups, names)),
            Rows::Stats(table) => Rows::Stats(table.merged(&groups, names)),
        })))
    }
}

impl Table {
    /// The rows of a slice, as Python takes them: what is beyond the end is not there.
    fn rows_within(&self, start: usize, stop: usize) -> Range<usize> {
        let stop = stop.min(self.__len__());
        start.min(stop)..stop
    }
}

fn column_value<'py>(python: Python<'py>, column: Column<'_>) -> PyResult<Bound<'py, PyAny>> {
    match column {
        Column::Cells(cells) => {
            let values = cells
                .into_iter()
                .map(|cell| value(python, cell))
                .collect::<PyResult<Vec<_>>>()?;
            Ok(PyList::new(python, values)?.into_any())
        }
        numbers => {
            let mut value = ColumnValue::new(python, &numbers);
            value.extend(python, numbers)?;
            value.finish(python)
        }
    }
}

/// Rows that are walked at once.
const COLUMN_SLICE: usize = 4096;

/// A column on its way into Python: numbers as bytes, anything else as text.
enum ColumnValue<'py> {
    Numbers(&'static str, Vec<u8>),
    Texts(Bound<'py, PyList>),
}

impl<'py> ColumnValue<'py> {
    /// One of the kind of `column`, without rows.
    fn new(python: Python<'py>, column: &Column<'_>) -> Self {
        match column {
            Column::Counts(_) => Self::Numbers("<u8", Vec::new()),
            Column::Floats(_) => Self::Numbers("<f8", Vec::new()),
            Column::Cells(_) => Self::Texts(PyList::empty(python)),
        }
    }

    fn extend(&mut self, python: Python<'py>, column: Column<'_>) -> PyResult<()> {
        match (self, column) {
            (Self::Numbers(_, bytes), Column::Counts(counts)) => {
                bytes.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
            }
            (Self::Numbers(_, bytes), Column::Floats(floats)) => {
                bytes.extend(floats.iter().flat_map(|float| float.to_le_bytes()));
            }
            (Self::Texts(list), Column::Cells(cells)) => {
                for cell in cells {
                    list.append(text(python, cell)?)?;
                }
            }
            _ => unreachable!("a column keeps its kind"),
        }
        Ok(())
    }

    fn finish(self, python: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Numbers(typestr, bytes) => numeric(python, typestr, bytes),
            Self::Texts(list) => Ok(list.into_any()),
        }
    }
}

fn numeric<'py>(python: Python<'py>, typestr: &str, bytes: Vec<u8>) -> PyResult<Bound<'py, PyAny>> {
    Ok((typestr, PyBytes::new(python, &bytes))
        .into_pyobject(python)?
        .into_any())
}

fn value<'py>(python: Python<'py>, cell: Cell<'_>) -> PyResult<Bound<'py, PyAny>> {
    Ok(match cell {
        Cell::Null => python.None().into_bound(python),
        Cell::Count(count) => count.into_pyobject(python)?.into_any(),
        Cell::Integer(integer) => integer.into_pyobject(python)?.into_any(),
        Cell::Float(float) => float.into_pyobject(python)?.into_any(),
        // One of few, so the string is made once and not for every row.
        Cell::Word(word) => PyString::intern(python, word).into_any(),
        Cell::Text(text) => text.into_pyobject(python)?.into_any(),
        Cell::Tuple(tuple) => PyTuple::new(python, tuple.iter())?.into_any(),
    })
}

/// A cell as text, empty where it is undefined; a shape or an index as JSON has it.
fn text<'py>(python: Python<'py>, cell: Cell<'_>) -> PyResult<Bound<'py, PyAny>> {
    Ok(match cell {
        Cell::Null => PyString::intern(python, "").into_any(),
        Cell::Tuple(tuple) => {
            let mut text = String::from("[");
            for (position, number) in tuple.iter().enumerate() {
                if position > 0 {
                    text.push_str(", ");
                }
                text.push_str(&number.to_string());
            }
            text.push(']');
            text.into_pyobject(python)?.into_any()
        }
        cell => value(python, cell)?,
    })
}
