//! Rows as Parquet, by its own column writers: the schema is small and fixed.

use std::sync::Arc;

use bytes::Bytes;
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    column::reader::get_typed_column_reader,
    data_type::{
        ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, Int32Type,
        Int64Type,
    },
    errors::{ParquetError, Result},
    file::{
        properties::{WriterProperties, WriterVersion},
        reader::{FileReader, RowGroupReader, SerializedFileReader},
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::{
        parser::parse_message_type,
        types::{ColumnPath, Type},
    },
};
use socialhub_domain::Timestamp;
use socialhub_projections::analytics::{FormatError, Row, RowFormat};
use uuid::Uuid;

/// The columns. `docs/analytics.md` says what they mean. Later ones may be added behind the last, all optional: they are
/// null in a file that was written before.
const SCHEMA: &str = "message event {
    REQUIRED INT64 position;
    REQUIRED FIXED_LEN_BYTE_ARRAY (16) event_id (UUID);
    REQUIRED BYTE_ARRAY event_type (UTF8);
    REQUIRED INT32 version;
    REQUIRED BYTE_ARRAY topic (UTF8);
    REQUIRED INT32 partition;
    OPTIONAL INT64 offset;
    REQUIRED BYTE_ARRAY key (UTF8);
    OPTIONAL INT64 occurred_at (TIMESTAMP(MICROS,true));
    OPTIONAL FIXED_LEN_BYTE_ARRAY (16) actor_id (UUID);
    OPTIONAL FIXED_LEN_BYTE_ARRAY (16) target_id (UUID);
    OPTIONAL FIXED_LEN_BYTE_ARRAY (16) post_id (UUID);
    OPTIONAL FIXED_LEN_BYTE_ARRAY (16) comment_id (UUID);
    OPTIONAL BYTE_ARRAY payload (UTF8);
}";
/// Columns whose values do not repeat: a dictionary of them would be a copy.
const UNIQUE: [&str; 4] = ["position", "event_id", "offset", "payload"];
/// Columns of numbers that rise slowly.
const RISING: [&str; 3] = ["position", "offset", "occurred_at"];

/// The format.
pub struct ParquetRows {
    schema: Arc<Type>,
    properties: Arc<WriterProperties>,
}

impl ParquetRows {
    /// Makes it ready.
    ///
    /// # Errors
    /// Never in practice: the schema is part of the program.
    pub fn new() -> std::result::Result<Self, FormatError> {
        let schema = parse_message_type(SCHEMA).map_err(told)?;
        let mut properties = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_2_0)
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("socialhub ", env!("CARGO_PKG_VERSION")).to_owned());
        for name in UNIQUE {
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(name), false);
        }
        for name in RISING {
            let column = ColumnPath::from(name);
            properties = properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
        }
        Ok(Self {
            schema: Arc::new(schema),
            properties: Arc::new(properties.build()),
        })
    }

    /// Whether a file's columns are the first ones of ours, and those that it has not may be missing.
    fn has_grown_from(&self, file: &Type) -> bool {
        let added = self.schema.get_fields().strip_prefix(file.get_fields());
        added.is_some_and(|added| added.iter().all(|column| column.is_optional()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "made for `map_err`")]
fn told(error: ParquetError) -> FormatError {
    FormatError(error.to_string())
}

impl RowFormat for ParquetRows {
    fn ending(&self) -> &'static str {
        "parquet"
    }

    fn encode(&self, rows: &[Row]) -> std::result::Result<Bytes, FormatError> {
        let schema = Arc::clone(&self.schema);
        let write = || {
            let mut file =
                SerializedFileWriter::new(Vec::new(), schema, Arc::clone(&self.properties))?;
            let mut group = file.next_row_group()?;
            write(&mut group, rows)?;
            group.close()?;
            file.into_inner()
        };
        write().map(Bytes::from).map_err(told)
    }

    fn decode(&self, bytes: Bytes) -> std::result::Result<Vec<Row>, FormatError> {
        let read = || {
            let file = SerializedFileReader::new(bytes)?;
            if !self.has_grown_from(file.metadata().file_metadata().schema()) {
                return Err(ParquetError::General("other columns than ours".to_owned()));
            }
            let mut rows = Vec::new();
            for nth in 0..file.num_row_groups() {
                rows.extend(read(&*file.get_row_group(nth)?)?);
            }
            Ok(rows)
        };
        read().map_err(told)
    }
}

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

/// The columns, in the order of the schema.
fn write(group: &mut Group<'_>, rows: &[Row]) -> Result<()> {
    let number = |number: u64| number.cast_signed();
    required::<Int64Type>(group, rows, |row| number(row.position))?;
    required::<FixedLenByteArrayType>(group, rows, |row| fixed(row.event_id))?;
    required::<ByteArrayType>(group, rows, |row| text(&row.event_type))?;
    required::<Int32Type>(group, rows, |row| row.version.cast_signed())?;
    required::<ByteArrayType>(group, rows, |row| text(&row.topic))?;
    required::<Int32Type>(group, rows, |row| row.partition)?;
    optional::<Int64Type>(group, rows, |row| row.offset)?;
    required::<ByteArrayType>(group, rows, |row| text(&row.key))?;
    let micros = |row: &Row| row.occurred_at?.0.checked_mul(1000);
    optional::<Int64Type>(group, rows, micros)?;
    optional::<FixedLenByteArrayType>(group, rows, |row| row.actor_id.map(fixed))?;
    optional::<FixedLenByteArrayType>(group, rows, |row| row.target_id.map(fixed))?;
    optional::<FixedLenByteArrayType>(group, rows, |row| row.post_id.map(fixed))?;
    optional::<FixedLenByteArrayType>(group, rows, |row| row.comment_id.map(fixed))?;
    optional::<ByteArrayType>(group, rows, |row| row.payload.as_deref().map(text))
}

fn fixed(id: Uuid) -> FixedLenByteArray {
    id.as_bytes().to_vec().into()
}

fn text(text: &str) -> ByteArray {
    ByteArray::from(text)
}

fn required<T: DataType>(
    group: &mut Group<'_>,
    rows: &[Row],
    value: impl Fn(&Row) -> T::T,
) -> Result<()> {
    let values: Vec<T::T> = rows.iter().map(value).collect();
    column::<T>(group, &values, None)
}

fn optional<T: DataType>(
    group: &mut Group<'_>,
    rows: &[Row],
    value: impl Fn(&Row) -> Option<T::T>,
) -> Result<()> {
    let mut values = Vec::with_capacity(rows.len());
    let mut levels = Vec::with_capacity(rows.len());
    for row in rows {
        let value = value(row);
        levels.push(i16::from(value.is_some()));
        values.extend(value);
    }
    column::<T>(group, &values, Some(&levels))
}

fn column<T: DataType>(
    group: &mut Group<'_>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<()> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("too few columns".to_owned()));
    };
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}

/// Reads the columns one after the other.
struct Columns<'a> {
    group: &'a dyn RowGroupReader,
    next: usize,
    rows: usize,
}

impl Columns<'_> {
    fn optional<T: DataType>(&mut self) -> Result<std::vec::IntoIter<Option<T::T>>> {
        if self.next >= self.group.num_columns() {
            return Ok(vec![None; self.rows].into_iter());
        }
        let mut reader = get_typed_column_reader::<T>(self.group.get_column_reader(self.next)?);
        self.next += 1;
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        reader.read_records(self.rows, Some(&mut levels), None, &mut values)?;
        let mut values = values.into_iter();
        let values: Vec<Option<T::T>> = if levels.is_empty() {
            values.map(Some).collect()
        } else {
            let value = |level: i16| if level > 0 { values.next() } else { None };
            levels.into_iter().map(value).collect()
        };
        if values.len() == self.rows {
            return Ok(values.into_iter());
        }
        let message = format!("{} values for {} rows", values.len(), self.rows);
        Err(ParquetError::General(message))
    }
}

fn read(group: &dyn RowGroupReader) -> Result<Vec<Row>> {
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
    let mut columns = Columns {
        group,
        next: 0,
        rows,
    };
    let mut position = columns.optional::<Int64Type>()?;
    let mut event_id = columns.optional::<FixedLenByteArrayType>()?;
    let mut event_type = columns.optional::<ByteArrayType>()?;
    let mut version = columns.optional::<Int32Type>()?;
    let mut topic = columns.optional::<ByteArrayType>()?;
    let mut partition = columns.optional::<Int32Type>()?;
    let mut offset = columns.optional::<Int64Type>()?;
    let mut key = columns.optional::<ByteArrayType>()?;
    let mut occurred_at = columns.optional::<Int64Type>()?;
    let mut actor_id = columns.optional::<FixedLenByteArrayType>()?;
    let mut target_id = columns.optional::<FixedLenByteArrayType>()?;
    let mut post_id = columns.optional::<FixedLenByteArrayType>()?;
    let mut comment_id = columns.optional::<FixedLenByteArrayType>()?;
    let mut payload = columns.optional::<ByteArrayType>()?;
    let row = |_| {
        Ok(Row {
            position: there(position.next())?.cast_unsigned(),
            event_id: id(&there(event_id.next())?)?,
            event_type: string(&there(event_type.next())?)?,
            version: there(version.next())?.cast_unsigned(),
            topic: string(&there(topic.next())?)?,
            partition: there(partition.next())?,
            offset: offset.next().flatten(),
            key: string(&there(key.next())?)?,
            occurred_at: occurred_at
                .next()
                .flatten()
                .map(|micros| Timestamp(micros / 1000)),
            actor_id: actor_id.next().flatten().map(|it| id(&it)).transpose()?,
            target_id: target_id.next().flatten().map(|it| id(&it)).transpose()?,
            post_id: post_id.next().flatten().map(|it| id(&it)).transpose()?,
            comment_id: comment_id.next().flatten().map(|it| id(&it)).transpose()?,
            payload: payload.next().flatten().map(|it| string(&it)).transpose()?,
        })
    };
    (0..rows).map(row).collect()
}

fn there<T>(value: Option<Option<T>>) -> Result<T> {
    let value = value.flatten();
    value.ok_or_else(|| ParquetError::General("a value is missing".to_owned()))
}

fn id(bytes: &FixedLenByteArray) -> Result<Uuid> {
    Uuid::from_slice(bytes.data()).map_err(|error| ParquetError::General(error.to_string()))
}

fn string(bytes: &ByteArray) -> Result<String> {
    Ok(bytes.as_utf8()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(nth: u64) -> Row {
        let some = |every: u64| {
            nth.is_multiple_of(every)
                .then(|| Uuid::from_u128(nth.into()))
        };
        Row {
            position: nth + 1,
            event_id: Uuid::from_u128(u128::MAX - u128::from(nth)),
            event_type: "post.liked".to_owned(),
            version: 2,
            topic: "POST_TOPIC".to_owned(),
            partition: 3,
            offset: nth.is_multiple_of(5).then_some(nth.cast_signed()),
            key: format!("key {nth}"),
            occurred_at: (!nth.is_multiple_of(7)).then(|| Timestamp(nth.cast_signed() - 10)),
            actor_id: some(2),
            target_id: some(3),
            post_id: some(4),
            comment_id: None,
            payload: some(2).map(|_| "{\"ü\":1}".to_owned()),
        }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let format = ParquetRows::new().unwrap();
        for count in [0, 1, 30_000] {
            let rows: Vec<Row> = (0..count).map(row).collect();
            let bytes = format.encode(&rows).unwrap();
            assert_eq!(format.decode(bytes).unwrap(), rows);
        }
    }

    #[test]
    fn what_is_no_file_of_ours_is_refused() {
        let format = ParquetRows::new().unwrap();
        assert!(
            format
                .decode(Bytes::from_static(b"PAR1 and so on"))
                .is_err()
        );
        let whole = format.encode(&[row(1)]).unwrap();
        assert!(format.decode(whole.slice(..whole.len() - 9)).is_err());
    }

    /// A file that has only the columns before one of them.
    fn with_columns_before(format: &ParquetRows, column: &str, rows: &[Row]) -> Bytes {
        let (before, _) = SCHEMA.split_once(column).unwrap();
        let schema = parse_message_type(&format!("{before}}}")).unwrap();
        let properties = Arc::clone(&format.properties);
        let file = SerializedFileWriter::new(Vec::new(), Arc::new(schema), properties);
        let mut file = file.unwrap();
        let mut group = file.next_row_group().unwrap();
        // It fails at the first column that is not there.
        assert!(write(&mut group, rows).is_err());
        group.close().unwrap();
        file.into_inner().unwrap().into()
    }

    #[test]
    fn columns_that_were_added_later_are_null_and_no_other_may_be_missing() {
        let format = ParquetRows::new().unwrap();
        let mut rows: Vec<Row> = (0..10).map(row).collect();
        let earlier = with_columns_before(&format, "OPTIONAL BYTE_ARRAY payload", &rows);
        for row in &mut rows {
            row.payload = None;
        }
        assert_eq!(format.decode(earlier).unwrap(), rows);
        let without_key = with_columns_before(&format, "REQUIRED BYTE_ARRAY key", &rows);
        let refused = format.decode(without_key).unwrap_err();
        assert!(refused.to_string().contains("other columns"), "{refused}");
    }
}
