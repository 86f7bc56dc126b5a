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
  return text.replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (character) =>
    character === '\n' ? '\\n' : `\\u{${character.codePointAt(0)?.toString(16)}}`,
  );
}

const mostNames = 5;

/** `c1, c2, c3, c4, c5 and 7 more` */
export function namesOf(names: string[]): string {
  const named = names.slice(0, mostNames).join(', ');
  return names.length > mostNames ? `${named} and ${names.length - mostNames} more` : named;
}

/** `90 s`, `5 min`, `26 h`, `3 d`: two of the next larger unit before it changes. */
export function duration(seconds: number): string {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}
