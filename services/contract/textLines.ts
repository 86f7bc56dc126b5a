/** Reads text that comes in pieces, line by line. */

/**
 * Yields the lines that each piece completes. Throws what `fault` makes if a line has more than `longest` characters, or if the text ends within a line.
 */
export async function* textLines(
  pieces: AsyncIterable<string>,
  longest: number,
  fault: (what: string) => Error = (what) => new Error(what),
): AsyncGenerator<string[]> {
  let rest = '';
  for await (const piece of pieces) {
    const lines = (rest + piece).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > longest) throw fault('a line is too long');
    yield lines;
  }
  if (rest !== '') throw fault('the last line breaks off');
}
