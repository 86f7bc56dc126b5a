/** What commands print for people: columns as wide as they must be, and nothing that could act on a terminal. */

/** Rows under a heading; the last column is not padded. `paint` may colour a cell that has its width. */
export function table(heading: string[], rows: string[][], paint: (cell: string) => string = (cell) => cell): string {
  const lines = [heading, ...rows.map((row) => row.map(printable))];
  const widths = heading.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  return lines
    .map((line) => line.map((cell, column) => (column === line.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))))
    .map((cells) => `${cells.map(paint).join('  ').trimEnd()}\n`)
    .join('');
}

/** Text from elsewhere on one line: control characters are escaped, not sent to the terminal. */
export function printable(text: string): string {
  return escaped(text.replaceAll('\n', '\\n'), (code) => `\\u{${code.toString(16)}}`);
}

/** The same of text that has several lines. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}

/** Whatever acts on a terminal, or changes how it shows what is around it, as `written` has it; line feeds stay. */
export function escaped(text: string, written: (code: number) => string): string {
  return text.replaceAll(/[^\P{Cc}\n]|[\p{Cf}\u2028\u2029]/gu, (character) => written(character.codePointAt(0) ?? 0));
}

/** `90 s`, `5 min`, `26 h`, `3 d`: two of the next larger unit before it changes. */
export function duration(seconds: number): string {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}
