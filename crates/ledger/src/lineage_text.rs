//! A model's lineage as text: what it was made of above, what came of it below.

use std::fmt::Write as _;

use super::lineage::{Lineage, LineageNode};

/// More children than this are counted, not shown: a dataset can have hundreds of sources.
const SHOWN_CHILDREN: usize = 8;

#[derive(Clone, Copy)]
enum Direction {
    MadeOf,
    LedTo,
}

impl Lineage {
    /// The lineage as two trees for a terminal.
    #[must_use]
    pub fn tree(&self) -> String {
        let root = self.model.to_string();
        let mut text = String::new();
        let label = self.find(&root).map_or(root.as_str(), |node| node.label.as_str());
        text.push_str(label);
        text.push('\n');
        for (heading, direction, last) in [("made of", Direction::MadeOf, false), ("led to", Direction::LedTo, true)] {
            let (branch, indent) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            text.push_str(branch);
            text.push_str(heading);
            text.push('\n');
            self.children(&root, direction, indent, &mut text);
        }
        text
    }

    fn children(&self, of: &str, direction: Direction, indent: &str, text: &mut String) {
        let children: Vec<&LineageNode> = self
            .edges
            .iter()
            .filter_map(|edge| match direction {
                Direction::MadeOf => (edge.to == of).then_some(&edge.from),
                Direction::LedTo => (edge.from == of).then_some(&edge.to),
            })
            .filter_map(|id| self.find(id))
            .collect();
        if children.is_empty() && indent.chars().count() == 3 {
            let _ = writeln!(text, "{indent}└─ nothing yet");
        }
        let hidden = children.len().saturating_sub(SHOWN_CHILDREN);
        for (index, child) in children.iter().take(SHOWN_CHILDREN).enumerate() {
            let last = hidden == 0 && index + 1 == children.len();
            let (branch, deeper) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{indent}{branch}{}", child.label);
            self.children(&child.id, direction, &format!("{indent}{deeper}"), text);
        }
        if hidden > 0 {
            let _ = writeln!(text, "{indent}└─ and {hidden} more");
        }
    }

    fn find(&self, id: &str) -> Option<&LineageNode> {
        self.nodes.iter().find(|node| node.id == id)
    }
}
