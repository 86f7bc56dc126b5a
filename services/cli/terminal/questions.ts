/** Asks questions on the terminal, or reads the answers line by line from a file. */
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { LxstowError } from '../../contract/errors.ts';
import type { Asker, Question } from '../../init/askAnswers.ts';
import { CliError, exits } from '../exit.ts';
import { printableLines } from './table.ts';

export class Questions implements Asker, Disposable {
  readonly #lines: AsyncIterator<string>;
  readonly #close: () => void;
  readonly #screen = new Screen();
  #interrupted = false;

  constructor() {
    const input = process.stdin;
    const lines = createInterface({ input, output: this.#screen, terminal: input.isTTY });
    lines.on('SIGINT', () => {
      this.#interrupted = true;
      lines.close();
    });
    this.#lines = lines[Symbol.asyncIterator]();
    this.#close = () => lines.close();
  }

  /** Asks until the answer is right. */
  async ask<T>({ text, usual, hidden = false, flag, read }: Question<T>): Promise<T> {
    for (;;) {
      process.stdout.write(`${text}${usual === undefined || hidden ? '' : ` [${usual}]`}: `);
      this.#screen.muted = hidden;
      const { value, done } = await this.#lines.next();
      this.#screen.muted = false;
      if (hidden || !process.stdin.isTTY) process.stdout.write('\n');
      if (this.#interrupted) throw new CliError(exits.interrupted, 'interrupted; nothing is set up');
      if (done)
        throw new CliError(exits.usage, `no answer to: ${text}`, { hint: `answer it on a terminal, or give ${flag}` });
      try {
        return await read(value.trim() === '' && usual !== undefined ? usual : value);
      } catch (error) {
        if (!(error instanceof LxstowError)) throw error;
        process.stdout.write(printableLines(`  ${error.message}\n`));
      }
    }
  }

  [Symbol.dispose](): void {
    this.#close();
  }
}

/** What readline echoes to: the terminal, unless the answer is hidden. */
class Screen extends Writable {
  muted = false;

  /** Width of the terminal, at which readline breaks lines. */
  get columns(): number {
    return process.stdout.columns;
  }

  override _write(chunk: Buffer | string, _encoding: string, next: () => void): void {
    if (!this.muted) process.stdout.write(chunk);
    next();
  }
}
