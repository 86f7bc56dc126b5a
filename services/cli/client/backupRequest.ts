/** How to back up, as options say it, in the fields of the API. */
import { CliError, exits } from '../exit.ts';

export interface HowToBackUp {
  tag: string[];
  compression?: string;
  optimized?: boolean;
  instanceOnly?: boolean;
  notify?: string;
}

/** The option of each field. */
export const backupOptions = {
  compression_algorithm: '--compression',
  optimized_storage: '--optimized',
  instance_only: '--instance-only',
  notifyEndpoint: '--notify',
  tags: '--tag',
};

export function howIn({ compression, optimized, instanceOnly, notify }: HowToBackUp) {
  return {
    ...(compression !== undefined && { compression_algorithm: compression as 'gzip' }),
    ...(optimized !== undefined && { optimized_storage: optimized }),
    ...(instanceOnly !== undefined && { instance_only: instanceOnly }),
    ...(notify !== undefined && { notifyEndpoint: notify }),
  };
}

/** Throws usage for what is not `key=value`. */
export function tagsIn(texts: string[]): [key: string, value: string][] {
  return texts.map((text) => {
    const cut = text.indexOf('=');
    if (cut < 1) throw new CliError(exits.usage, `--tag ${text}: give it as key=value`);
    return [text.slice(0, cut), text.slice(cut + 1)];
  });
}
