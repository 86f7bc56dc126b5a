/** `--tag key=value`, as commands take it. */
import { CliError, exits } from './exit.ts';

export function tagsIn(texts: string[]): [key: string, value: string][] {
  return texts.map((text) => {
    const cut = text.indexOf('=');
    if (cut < 1) throw new CliError(exits.usage, `--tag ${text}: give it as key=value`);
    return [text.slice(0, cut), text.slice(cut + 1)];
  });
}
