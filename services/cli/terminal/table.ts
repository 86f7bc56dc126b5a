/** Text for people: tables, lists of names, time spans; without control characters. */

/** Rows under a heading; the last column is not padded. `paint` colours a cell after it is padded. */
export function table(heading: string[], rows: string[][], paint: (cell: string) => string = (cell) => cell): string {
  const lines = [heading, ...rows.map((row) => row.map(printable))];
  const widths = heading.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  return lines
    .map((line) => line.map((cell, column) => (column === line.length - 1 ? cell : cell.padEnd(widths[column] ?? 0))))
    .map((cells) => `${cells.map(paint).join('  ').trimEnd()}\n`)
    .join('');
}

/** Puts text from elsewhere on one line, with control characters escaped. */
export function printable(text: string): string {
  return escaped(text.replaceAll('\n', '\\n'), (code) => `\\u{${code.toString(16)}}`);
}

/** The same for text with several lines. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}

/** Replaces every character that controls a terminal, or changes how it shows its neighbours, by `written`. Line feeds stay. */
export function escaped(text: string, written: (code: number) => string): string {
  return text.replaceAll(/[^\P{Cc}\n]|[\p{Cf}\u2028\u2029]/gu, (character) => written(character.codePointAt(0) ?? 0));
}

const mostNames = 5;

/** `c1, c2, c3, c4, c5 and 7 more` */
export function namesOf(names: string[]): string {
  const named = names.slice(0, mostNames).join(', ');
  return names.length > mostNames ? `${named} and ${names.length - mostNames} more` : named;
}

/** `90 s`, `5 min`, `26 h`, `3 d`: changes to the next unit at two of it. */
export function duration(seconds: number): string {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 2 * 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}
