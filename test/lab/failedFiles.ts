/** A node:test reporter: the files in which a test failed, one a line. */
import { relative } from 'node:path';
import type { TestEvent } from 'node:test/reporters';

export default async function* failedFiles(events: AsyncIterable<TestEvent>) {
  const files = new Set<string>();
  for await (const { type, data } of events) if (type === 'test:fail') files.add(data.file ?? data.name);
  for (const file of files) yield `${relative('.', file)}\n`;
}
